"""calls.jsonl: a line for each call that trained in a folder, written before its first step.

So a run that was killed has it too.
"""

import datetime
import json
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import recalign
from recalign.errors import UserError
from recalign.evaluation.report import read_metrics
from recalign.files import write_text
from recalign.runs.result import commit

FILE = "calls.jsonl"
_KINDS: dict[str, Any] = {
    "time": str,
    "command": str,
    "version": str,
    "commit": (str, type(None)),
    "packages": dict,
    "devices": str,
    "provenance": dict,
}
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "seqio", "tensorflow")


def record(folder: Path, step: int, provenance: Mapping[str, str], devices: str) -> None:
    """Adds this call."""
    call = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "step": step,
        "command": _command(),
        "version": recalign.__version__,
        "commit": commit(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "python": sys.version.split()[0],
        "devices": devices,
        "provenance": dict(provenance),
    }
    lines = [json.dumps(each) + "\n" for each in (*read(folder), call)]
    write_text(folder / FILE, "".join(lines))


def read(folder: Path) -> list[dict]:
    """The calls in a folder, the first one first; none of a run that was made before there were.

    Raises:
      UserError: a line is not JSON, or not what `record` wrote.
    """
    path = folder / FILE
    found = read_metrics(path) if path.exists() else []
    for number, call in enumerate(found, start=1):
        if not isinstance(call, dict) or any(
            not isinstance(call.get(name), kind) for name, kind in _KINDS.items()
        ):
            raise UserError(f"{path}, line {number}: no call of a training; remove the line")
    return found


def _command() -> str:
    """As it can be typed again: a module that `python -m` runs has the file as its name."""
    program = Path(sys.argv[0])
    module = program.name == "__main__.py"
    begin = ["python", "-m", program.parent.name] if module else [program.name]
    return shlex.join([*begin, *sys.argv[1:]])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
