"""The text plane imports no JAX of its own accord.

SeqIO and CLU import it for their own ends, so that it cannot be taken away altogether: what is
refused is an import by a module of ours, however deep below `recalign.samples`.
"""

import pkgutil
import subprocess
import sys

import recalign.samples

BLOCKED = ("jax", "jaxlib", "flax", "optax", "orbax", "recalign.engine")

PROGRAM = f"""
import builtins, importlib, sys

given = builtins.__import__

def refuse(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {{}}).get("__name__") or ""
    wanted = [name, *(f"{{name}}.{{part}}" for part in fromlist or ())]
    if importer.partition(".")[0] == "recalign" and any(
        f"{{module}}.".startswith(f"{{blocked}}.") for module in wanted for blocked in {BLOCKED}
    ):
        raise ImportError(f"{{importer}} imports {{name}}")
    return given(name, globals, locals, fromlist, level)

builtins.__import__ = refuse
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def imported(*modules):
    command = [sys.executable, "-c", PROGRAM, *modules]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_module_of_samples_imports_without_jax():
    prefix = recalign.samples.__name__ + "."
    modules = [m.name for m in pkgutil.walk_packages(recalign.samples.__path__, prefix)]
    assert {f"{prefix}{name}" for name in ("items", "judged", "registry")} <= {*modules}
    done = imported(*modules)
    assert done.returncode == 0, done.stderr


def test_what_does_import_it_is_refused():
    done = imported("recalign.engine.search.trie")
    assert "recalign.engine.search.trie imports jax" in done.stderr
