#!/usr/bin/env bash
# What one worker of a TPU VM does; launch/tpu_vm.py calls it over ssh on all of them.
#
#   tpu_worker.sh setup                             installs the tree it stands in
#   tpu_worker.sh start N BUCKET RUN ARGUMENT...    runs `recalign ARGUMENT...` in the background, as
#                                                   the N-th attempt at RUN in BUCKET; asked twice,
#                                                   it does so once
#   tpu_worker.sh follow BYTE                       its log from BYTE on, until it ends; then its
#                                                   exit code
set -euo pipefail
TREE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
WORK="${RECALIGN_WORKER_DIR:-$HOME/recalign-worker}"
mkdir -p "$WORK"

setup() {
  install_python
  "$WORK/venv/bin/python" -m pip install --quiet --constraint "$TREE/constraints.txt" \
    --editable "$TREE" "jax[tpu]"
}

install_python() { # the images have Python 3.10, recalign needs 3.11 to 3.13
  if [ ! -x "$WORK/venv/bin/python" ]; then
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.12 "$WORK/venv"
  fi
}

start() { # ATTEMPT BUCKET RUN ARGUMENT...
  local attempt="$1" bucket="gs://$2" run="$3"
  shift 3
  if [ "$(cat "$WORK/attempt" 2>/dev/null)" = "$attempt" ]; then
    return # a lost connection made the launcher ask twice
  fi
  end_of_last_attempt
  rm -f "$WORK/exit"
  : >"$WORK/log"
  # Domains are read again and again, each by several programs.
  mkdir -p "$WORK/domains"
  if gcloud storage ls "$bucket/domains" >/dev/null 2>&1; then
    gcloud storage rsync --quiet --recursive "$bucket/domains" "$WORK/domains"
  fi
  # Apart from the ssh session, which may end before it.
  RECALIGN_DATA_DIR="$WORK/domains" setsid nohup "$TREE/launch/tpu_worker.sh" recalign \
    "$@" "--gin.MODEL_DIR=$bucket/runs/$run" >>"$WORK/log" 2>&1 </dev/null &
  echo "$!" >"$WORK/pid"
  echo "$attempt" >"$WORK/attempt"
}

recalign() {
  local code=0
  "$WORK/venv/bin/recalign" "$@" || code=$?
  echo "$code" >"$WORK/exit.part"
  mv "$WORK/exit.part" "$WORK/exit"
}

end_of_last_attempt() { # when one worker ends, the others hear of it a little later
  [ -f "$WORK/pid" ] || return 0
  local pid seconds
  pid="$(cat "$WORK/pid")"
  for ((seconds = 0; seconds < 120; seconds++)); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 1
  done
  kill -KILL -- "-$pid"
}

follow() {
  local pid
  pid="$(cat "$WORK/pid")"
  tail --bytes=+"$(($1 + 1))" --follow --sleep-interval="${RECALIGN_POLL_SECONDS:-1}" --pid="$pid" "$WORK/log"
  # The launcher tells the end of the run from the end of the connection by this line.
  echo
  echo "recalign-exit $(cat "$WORK/exit" 2>/dev/null || echo lost)"
}

case "${1:-}" in
  setup | start | recalign | follow) "$@" ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
esac
