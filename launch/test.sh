#!/usr/bin/env bash
# Installs what is missing and runs all tests; extra arguments go to pytest.
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
environment test
cd "$ROOT"
exec python -m pytest "$@"
