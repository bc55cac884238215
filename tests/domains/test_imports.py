"""The domains room works where neither TensorFlow nor JAX is installed."""

import subprocess
import sys

PROGRAM = """
import sys

for name in ("tensorflow", "tensorflow_datasets", "seqio", "jax", "flax"):
    sys.modules[name] = None  # importing it raises ImportError

import pkgutil, importlib
import recalign.domains

for module in pkgutil.walk_packages(recalign.domains.__path__, "recalign.domains."):
    importlib.import_module(module.name)
from recalign.domains import assemble
from recalign.domains.readers import toyshop
print(len(assemble.assemble(toyshop.generate(20, 40), "toyshop").split("test")))
"""


def test_the_room_needs_neither_tensorflow_nor_jax():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "20"
