#!/usr/bin/env bash
# The paper's table from McAuley's files; `--help` tells all. Ctrl-C stops it, the same command goes on.
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
environment
exec python "$ROOT/launch/reproduce.py" "$@"
