#!/usr/bin/env bash
# Installs what is missing and runs all tests, in two processes; extra arguments go to pytest, of
# which `-n 0` runs them in one. A process that crashes is not replaced, for then xdist hangs at the
# end: it gives the files that were done anew, empty, and waits for them.
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
environment test
cd "$ROOT"
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
  --max-worker-restart 0 "$@"
