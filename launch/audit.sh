#!/usr/bin/env bash
# Supply chain: the licences of all dependencies (written to launch/licences.md), then their known
# vulnerabilities, by pip-audit from PyPI's advisories. Exit code 1: a licence does not fit, or a
# vulnerability is known; 3: the advisories could not be had for some packages, so nothing is known.
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
environment test
python "$ROOT/launch/audit.py" licences >"$ROOT/launch/licences.md.partial"
mv "$ROOT/launch/licences.md.partial" "$ROOT/launch/licences.md"
python -m pip install --quiet 'pip-audit>=2.7'
work="$(mktemp -d)"
trap 'rm -r "$work"' EXIT
python "$ROOT/launch/audit.py" versions >"$work/versions.txt"
# It ends with 1 for a vulnerability and for a failure alike, and with 0 for packages that it skips:
# what it writes decides.
pip-audit --requirement "$work/versions.txt" --no-deps --disable-pip --progress-spinner off \
  --format json --output "$work/found.json" || true
python "$ROOT/launch/audit.py" vulnerabilities "$work/found.json"
