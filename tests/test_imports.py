"""Importing a module changes nothing that a process has of its own: logging, environment, files."""

import subprocess
import sys
from pathlib import Path

import pytest

import recalign

ROOT = Path(recalign.__file__).parent
# They do what they do at import (Orbax calls `logging.basicConfig`); ours comes on top of that.
OF_OTHERS = ("clu.data.dataset_iterator", "orbax.checkpoint", "seqio", "tensorboardX")

PROGRAM = f"""
import importlib, logging, os, sys

for name in {OF_OTHERS}:
    importlib.import_module(name)

def state():
    root = logging.getLogger()
    return {{
        "logging": (root.level, root.manager.disable, [*root.handlers], [*root.filters]),
        "environment": dict(os.environ),
        "files": [(found.st_dev, found.st_ino) for found in map(os.fstat, (0, 1, 2))],
        "streams": (sys.stdin, sys.stdout, sys.stderr, [*sys.meta_path]),
    }}

def refuse(*_):
    raise AssertionError("a file descriptor is exchanged")

before = state()
os.dup2 = refuse
for name in sys.argv[1:]:
    importlib.import_module(name)
    for what, value in state().items():
        assert value == before[what], (name, what, before[what], value)
"""


def modules():
    files = [(ROOT.parent, path) for path in ROOT.rglob("*.py")]
    names = [".".join(p.relative_to(root).with_suffix("").parts) for root, p in files]
    names += [f"recalign.tasks.{path.stem}" for path in (ROOT.parent / "tasks").glob("*.py")]
    return sorted(name.removesuffix(".__init__") for name in names if name != "recalign.t5x.model")


def test_importing_any_module_leaves_the_process_alone():
    found = modules()
    assert {"recalign", "recalign.__main__", "recalign.samples", "recalign.tasks"} <= {*found}
    command = [sys.executable, "-c", PROGRAM, *found]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""


@pytest.mark.parametrize("options", [["tasks", "nothing_is_named_so"]])
def test_a_command_that_loads_tensorflow_says_nothing_of_it(options):
    command = [sys.executable, "-m", "recalign", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("recalign: no task or mixture is named 'nothing_is_named_so'")
