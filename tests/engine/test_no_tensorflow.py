"""The tensor plane must import where TensorFlow is not installed."""

import pkgutil
import subprocess
import sys

import recalign.engine

BLOCKED = ("tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5x", "clu")

PROGRAM = f"""
import importlib, sys
for name in {BLOCKED}:
    sys.modules[name] = None  # importing it now raises ImportError
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_every_engine_module_imports_without_tensorflow():
    prefix = recalign.engine.__name__ + "."
    modules = [m.name for m in pkgutil.walk_packages(recalign.engine.__path__, prefix)]
    assert f"{prefix}network.transformer" in modules
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *modules], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
