#!/usr/bin/env bash
# The main job on the embedded domain: prepares, trains, evaluates on the test split, prints the
# table. Extra arguments go to `recalign train`, such as --gin.TRAIN_STEPS=200.
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
environment
export RECALIGN_DATA_DIR="${RECALIGN_DATA_DIR:-$ROOT/.demo/data}"
recalign prepare toyshop
recalign train --gin_file=toyshop_small.gin --gin.MODEL_DIR="$ROOT/.demo/run" "$@"
