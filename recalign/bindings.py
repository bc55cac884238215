"""gin's bindings, one set a run: gin itself keeps one for the whole process.

What makes a run takes its values from gin once. SeqIO's tasks are functions that gin configures
when a pipeline is built (T5X builds them so), and whoever builds one later does it under the
bindings that its run was made with.
"""

import contextlib
import threading
from collections.abc import Iterator

import gin

# All that `gin.clear_config` clears beside constants; gin has no other way to keep it.
_PARTS = (
    gin.config._CONFIG,
    gin.config._OPERATIVE_CONFIG,
    gin.config._IMPORTS,
    gin.config._SINGLETONS,
)
_LOCK = threading.RLock()


class Bindings:
    """What gin files and flags have bound, and what of it was used so far."""

    _in_force: "Bindings"

    def __init__(self):
        self._kept = [type(part)() for part in _PARTS]

    @classmethod
    def in_force(cls) -> "Bindings":
        """Those that gin works with now."""
        return cls._in_force

    @classmethod
    def begin(cls) -> "Bindings":
        """Puts the ones in force aside and begins with none."""
        with _LOCK:
            new = cls()
            new._take_over()
            return new

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Puts these in force for a while; threads take turns."""
        with _LOCK:
            before = self.in_force()
            self._take_over()
            try:
                yield
            finally:
                before._take_over()

    def _take_over(self) -> None:
        if Bindings._in_force is self:
            return
        for part, kept in zip(_PARTS, Bindings._in_force._kept, strict=True):
            kept.clear(), kept.update(part)
        for part, kept in zip(_PARTS, self._kept, strict=True):
            part.clear(), part.update(kept)
        Bindings._in_force = self


Bindings._in_force = Bindings()
