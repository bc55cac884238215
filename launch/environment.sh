# shellcheck shell=bash
# Sourced by the other scripts: `environment [EXTRA]` activates a virtual environment (./.venv, made
# if none is active) and installs recalign into it, unless that has been done for these very versions.
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

environment() {
  local extra="${1:-}"
  if [ -z "${VIRTUAL_ENV:-}" ]; then
    if [ ! -x "$ROOT/.venv/bin/python" ]; then
      "$(supported_python)" -m venv "$ROOT/.venv"
    fi
    # shellcheck source=/dev/null
    . "$ROOT/.venv/bin/activate"
  fi
  # glibc then asks for huge pages: a training step on a CPU has 100 times fewer page faults.
  export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
  local stamp wanted
  stamp="$VIRTUAL_ENV/recalign-installed${extra:+-$extra}"
  wanted="$ROOT $(cat "$ROOT/setup.py" "$ROOT/constraints.txt" | sha256sum)"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    python -m pip install --quiet --constraint "$ROOT/constraints.txt" \
      --editable "$ROOT${extra:+[$extra]}"
    echo "$wanted" >"$stamp"
  fi
}

supported_python() {
  local python
  for python in python3.11 python3.12 python3.13 python3 python; do
    if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
      2>/dev/null; then
      echo "$python"
      return
    fi
  done
  echo "recalign needs Python 3.11, 3.12 or 3.13 on the PATH" >&2
  exit 2
}
