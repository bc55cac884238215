"""Importing the tensor plane changes nothing that others share: logging, file descriptors."""

import pkgutil
import subprocess
import sys

import recalign.engine

PROGRAM = """
import importlib, logging, os, sys
import flax.linen, jax, optax, orbax.checkpoint, sentencepiece, tensorboardX, tensorstore, tqdm

def shared():
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    told = {
        logger.name: (logger.level, list(logger.filters), list(logger.handlers), logger.propagate)
        for logger in loggers
        if isinstance(logger, logging.Logger) and not logger.name.startswith("recalign")
    }
    descriptors = {n: os.readlink(f"/proc/self/fd/{n}") for n in "012"}
    return told, logging.root.manager.disable, descriptors, dict(os.environ)

before = shared()
for name in sys.argv[1:]:
    importlib.import_module(name)
after = shared()
assert {name: after[0][name] for name in before[0]} == before[0]
assert after[1:] == before[1:]
"""


def test_importing_the_engine_changes_neither_logging_nor_descriptors():
    prefix = recalign.engine.__name__ + "."
    modules = [m.name for m in pkgutil.walk_packages(recalign.engine.__path__, prefix)]
    assert f"{prefix}training.checkpoints" in modules
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *modules], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
