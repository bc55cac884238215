#!/usr/bin/env bash
# Adds T5X (the extra "t5x" of setup.py) to the environment: what is on GitHub without its own
# requirements, which would replace released libraries by unreleased ones, then the rest from PyPI.
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
environment

requirements() { # WHICH is "addresses" or "names"
  python - "$1" <<'PY'
import sys
from importlib.metadata import requires
for requirement in requires("recalign"):
    needed, _, marker = requirement.partition(";")
    if "t5x" in marker and ("://" in needed) == (sys.argv[1] == "addresses"):
        print(needed.strip())
PY
}

mapfile -t addresses < <(requirements addresses)
mapfile -t names < <(requirements names)
python -m pip install --no-deps "${addresses[@]}"
python -m pip install --constraint "$ROOT/constraints.txt" "${names[@]}"
python -c 'import t5x.train, t5x.eval, t5x.infer' && echo "T5X is installed"
