#!/usr/bin/env bash
# The entry point of the container: `recalign`, with the GPU settings where there are GPUs.
set -euo pipefail
if [ -e /dev/nvidiactl ]; then
  # shellcheck source=launch/gpu_flags.sh
  . "$(dirname "${BASH_SOURCE[0]}")/gpu_flags.sh"
fi
exec recalign "$@"
