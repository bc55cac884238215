"""What TensorFlow prints when it starts, kept from whoever calls a command."""

import contextlib
import importlib.machinery
import os
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType

LOADS_TENSORFLOW = "recalign.samples"


def silence_tensorflow() -> None:
    """Sends standard error nowhere while TensorFlow is loaded, whenever that will be.

    TensorFlow 2.21 tells of absent GPUs and of oneDNN at import, whatever its log level. Errors are
    raised, not printed, so that none is lost.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds the one module that loads TensorFlow, once."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if name != LOADS_TENSORFLOW:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        spec.loader = _SilentLoader(name, spec.origin)
        return spec


class _SilentLoader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        with _silenced_stderr():
            super().exec_module(module)


@contextlib.contextmanager
def _silenced_stderr() -> Iterator[None]:
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
