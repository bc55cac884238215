"""The domains room works where neither TensorFlow nor JAX is installed."""

import subprocess
import sys

import tensorflow_datasets as tfds

PROGRAM = """
import sys

class Refusing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("tensorflow", "seqio", "jax", "flax"):
            raise ImportError(name)

sys.meta_path.insert(0, Refusing)

import pkgutil, importlib, pathlib
import recalign.domains

for module in pkgutil.walk_packages(recalign.domains.__path__, "recalign.domains."):
    importlib.import_module(module.name)
from recalign.domains import assemble, records
from recalign.domains.readers import toyshop
domain = assemble.assemble(toyshop.generate(20, 40), "toyshop")
records.write(domain, pathlib.Path(sys.argv[1]))
"""


def test_the_room_needs_neither_tensorflow_nor_jax(tmp_path):
    command = [sys.executable, "-c", PROGRAM, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    builder = tfds.builder_from_directory(tmp_path / "1.0.0")
    assert builder.info.splits["test"].num_examples == 20
