"""`python -m recalign`."""

from recalign.cli import main

if __name__ == "__main__":
    main()
