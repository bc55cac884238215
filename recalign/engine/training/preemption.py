"""The notice that a machine is about to be taken away: SIGTERM."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from recalign.errors import Preempted


class Notice:
    """Whether to stop, asked between steps; a context manager.

    One process catches SIGTERM itself. Of several, each hears of its own machine only, and all must
    stop at the same step: there JAX's coordination service catches the signal and agrees on one.
    """

    def __init__(self):
        self._arrived = False
        self._interrupts = False

    def __enter__(self) -> "Notice":
        alone = jax.process_count() == 1
        self._catches = alone and threading.current_thread() is threading.main_thread()
        if self._catches:
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_) -> None:
        if self._catches:
            # None is a handler that some library installed below Python.
            before = signal.SIG_DFL if self._before is None else self._before
            signal.signal(signal.SIGTERM, before)

    def _on_signal(self, *_) -> None:
        self._arrived = True
        if self._interrupts:
            raise Preempted()

    def arrived(self, step: int) -> bool:
        """Whether all processes are to stop after this step; each asks at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._arrived

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within the block the notice raises `Preempted` at once, where one process is alone."""
        if self._arrived:
            raise Preempted()
        self._interrupts = True
        try:
            yield
        finally:
            self._interrupts = False
