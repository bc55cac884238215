"""`python -m recalign`."""

from recalign.cli import main

main()
