#!/usr/bin/env bash
# What one worker of a TPU VM does; launch/tpu_vm.py calls it over ssh on all of them.
#
#   tpu_worker.sh setup BUCKET               installs the tree it stands in, mounts the bucket
#   tpu_worker.sh start N RUN ARGUMENT...    runs `recalign ARGUMENT...` in the background, as the
#                                            N-th attempt at RUN; asked twice, it does so once
#   tpu_worker.sh follow BYTE                its log from BYTE on, until it ends; then its exit code
set -euo pipefail
TREE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
WORK="${RECALIGN_WORKER_DIR:-$HOME/recalign-worker}"
MOUNT="$WORK/bucket"
mkdir -p "$WORK"

setup() {
  install_python
  "$WORK/venv/bin/python" -m pip install --quiet --constraint "$TREE/constraints.txt" \
    --editable "$TREE" "jax[tpu]"
  mount_bucket "$1"
}

install_python() { # the images have Python 3.10, recalign needs 3.11 or 3.12
  if [ ! -x "$WORK/venv/bin/python" ]; then
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.12 "$WORK/venv"
  fi
}

mount_bucket() { # MODEL_DIR must outlive the machine, and be one for all workers
  mountpoint --quiet "$MOUNT" && return
  if ! command -v gcsfuse >/dev/null; then
    local keyring=/usr/share/keyrings/cloud.google.asc
    curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$keyring" >/dev/null
    echo "deb [signed-by=$keyring] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    # A fresh image may still be at its own updates, which hold the lock.
    sudo apt-get -o DPkg::Lock::Timeout=300 -qq update
    sudo apt-get -o DPkg::Lock::Timeout=300 -qq install --yes gcsfuse
  fi
  mkdir -p "$MOUNT"
  # A checkpoint is written under another name and then renamed, which a bucket allows folders up to
  # a limit; folders that `gcloud storage` made are only implied by their files.
  gcsfuse --implicit-dirs --rename-dir-limit=200000 "$1" "$MOUNT"
}

start() { # ATTEMPT RUN ARGUMENT...
  local attempt="$1" run="$2"
  shift 2
  if [ "$(cat "$WORK/attempt" 2>/dev/null)" = "$attempt" ]; then
    return # a lost connection made the launcher ask twice
  fi
  end_of_last_attempt
  rm -f "$WORK/exit"
  : >"$WORK/log"
  # Apart from the ssh session, which may end before it.
  RECALIGN_DATA_DIR="$MOUNT/domains" setsid nohup "$TREE/launch/tpu_worker.sh" recalign \
    "$@" "--gin.MODEL_DIR=$MOUNT/runs/$run" >>"$WORK/log" 2>&1 </dev/null &
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
  *) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
esac
