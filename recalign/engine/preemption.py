"""The notice that a machine is about to be taken away, SIGTERM, or that its user will not wait.

A process that is alone hears it itself, and whatever it is at ends at once by `Preempted`; only
what is within `defer` goes on to its next `has_arrived` or `safe_point`, unless Ctrl-C comes again.
Of several processes each hears of its own machine only, and all must stop at the same place: there
JAX's coordination service catches the signal, and they agree on one of the places that every
process passes in the same order.
"""

import _thread
import contextlib
import functools
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from recalign.errors import Preempted


class _Notice:
    """There is one signal, and so there is one of these."""

    listening = False
    arrived = 0  # the signal
    raised = False
    deferred = False
    places = itertools.count(1)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within the block SIGTERM and Ctrl-C are a notice; a block within another changes nothing.

    Nor does one of several processes: since they joined, the service listens for all of them, and
    Ctrl-C is what it is to Python.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if _Notice.listening or not is_main or _are_several():
        yield
        return
    before = {each: signal.signal(each, _on_signal) for each in (signal.SIGTERM, signal.SIGINT)}
    hook, sys.unraisablehook = sys.unraisablehook, functools.partial(_again, sys.unraisablehook)
    _Notice.listening = True
    try:
        yield
    finally:
        _Notice.listening = _Notice.raised = False
        _Notice.arrived = 0
        sys.unraisablehook = hook
        for each, handler in before.items():
            if each == signal.SIGINT or not _are_several():
                # None is a handler that some library installed below Python.
                signal.signal(each, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def defer() -> Iterator[None]:
    """Within the block nothing is cut off."""
    before, _Notice.deferred = _Notice.deferred, True
    try:
        yield
    finally:
        _Notice.deferred = before


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Amid what is deferred, a block that may be cut off; a safe point begins it."""
    safe_point()
    before, _Notice.deferred = _Notice.deferred, False
    try:
        yield
    finally:
        _Notice.deferred = before


def has_arrived() -> bool:
    """Whether to stop here; several processes ask at the same places, and hear the same."""
    if not _Notice.arrived and _are_several():
        from jax.experimental import multihost_utils

        # Once it has been agreed on a place it is told there alone, whatever is made of it.
        if multihost_utils.reached_preemption_sync_point(next(_Notice.places)):
            _Notice.arrived = signal.SIGTERM
    return bool(_Notice.arrived)


def safe_point() -> None:
    """Ends what runs if it is to stop here; several processes must pass the same safe points.

    Raises:
      Preempted: it was told to stop.
    """
    if has_arrived():
        raise Preempted(_Notice.arrived)


def pass_on() -> None:
    """Gives a signal that this process caught, alone, to the service that now listens for all."""
    if number := _Notice.arrived:
        _Notice.arrived = 0
        signal.raise_signal(number)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and (_Notice.arrived or _are_several()):
        raise KeyboardInterrupt
    _Notice.arrived = _Notice.arrived or number
    if number == signal.SIGINT and _Notice.deferred:
        os.write(2, b"\nstopping after this step; Ctrl-C again ends at once\n")
    if _Notice.deferred or _Notice.raised or _is_amid(_again, frame):
        return
    _Notice.raised = True
    raise Preempted(_Notice.arrived)


def _again(hook: Callable, swallowed: "sys.UnraisableHookArgs") -> None:
    """Where Python swallows what is raised, as amid garbage collection, raises it anew after it."""
    if not isinstance(swallowed.exc_value, Preempted):
        hook(swallowed)
        return
    _Notice.raised = False
    threading.Thread(target=_insist, daemon=True).start()


def _insist() -> None:
    while _Notice.listening and not _Notice.deferred and not _Notice.raised:
        time.sleep(0.01)
        _thread.interrupt_main(signal.SIGTERM)  # does nothing any more once nobody listens


def _is_amid(function: Callable, frame: FrameType | None) -> bool:
    """Whether a frame is one of a function, or of something that it called."""
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


def _are_several() -> bool:
    jax = sys.modules.get("jax")  # which takes too long to import to be listened after
    return jax is not None and jax.distributed.is_initialized()
