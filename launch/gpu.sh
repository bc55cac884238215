#!/usr/bin/env bash
# Trains a recipe on all GPUs of this machine; arguments are those of `recalign train`:
#
#   launch/gpu.sh --gin_file=beauty.gin --gin.MODEL_DIR=runs/beauty
#
# One process drives all GPUs. What each holds is up to the recipe: --gin.Partitioner.num_partitions
# and --gin.Partitioner.rules (launch/README.md). A run that was told to stop (SIGTERM) is begun again.
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
environment
python -m pip install --quiet --constraint "$ROOT/constraints.txt" "jax[cuda13]"
# shellcheck source=launch/gpu_flags.sh
. "$ROOT/launch/gpu_flags.sh"

AGAIN=75
while true; do
  code=0
  recalign train "$@" || code=$?
  [ "$code" -eq "$AGAIN" ] || exit "$code"
done
