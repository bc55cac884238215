"""SIGTERM in one process: where it ends what runs, where it waits, and where Python hides it."""

import contextlib
import gc
import os
import signal
import time
import weakref

import pytest

from recalign.engine import preemption
from recalign.errors import Preempted, UserError


def terminate(*_):
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def cut_off():
    """The block is, by its last statement at the latest."""
    try:
        yield
    except Preempted:
        return
    pytest.fail("it came to its end")


def test_it_ends_at_once_what_is_not_deferred_and_no_handler_of_errors_takes_it():
    before = signal.getsignal(signal.SIGTERM)
    with cut_off(), preemption.listening(), contextlib.suppress(Exception):
        terminate()
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_is_deferred_goes_on_to_where_it_asks():
    with preemption.listening():
        with preemption.defer():
            assert not preemption.has_arrived()
            terminate()
            assert preemption.has_arrived()
            with cut_off(), preemption.interruptible():
                pytest.fail("a safe point stands before it")
        with cut_off():
            preemption.safe_point()
    preemption.safe_point()  # the next one has heard nothing


def test_amid_what_is_deferred_a_block_may_be_cut_off():
    with preemption.listening(), preemption.defer():
        with cut_off(), preemption.interruptible():
            terminate()
        assert preemption.has_arrived()


def test_a_block_within_another_belongs_to_it():
    with preemption.listening(), preemption.defer():
        with preemption.listening():
            terminate()
        assert preemption.has_arrived()


def test_the_signal_of_several_processes_is_left_to_the_service_that_listens_for_all(monkeypatch):
    monkeypatch.setattr(preemption, "_are_several", lambda: True)
    before = signal.getsignal(signal.SIGTERM)
    with preemption.listening():
        assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGTERM) == before


def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_waits_for_a_checkpoint_once(capfd):
    before = signal.getsignal(signal.SIGINT)
    with preemption.listening(), preemption.defer():
        interrupt()
        assert preemption.has_arrived()
        assert "Ctrl-C again ends at once" in capfd.readouterr().err
        with pytest.raises(Preempted, match=r"Ctrl-C.*call the same command again") as told:
            preemption.safe_point()
        assert told.value.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert signal.getsignal(signal.SIGINT) == before
    with cut_off(), preemption.listening():
        interrupt()


def test_ctrl_c_to_one_of_several_processes_is_what_it_is_to_python(monkeypatch):
    with preemption.listening():
        monkeypatch.setattr(preemption, "_are_several", lambda: True)  # they have joined since
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        monkeypatch.undo()


def test_an_error_amid_what_is_deferred_is_the_error():
    def fail():
        with preemption.listening(), preemption.defer():
            terminate()
            raise UserError("the disk is full")

    with pytest.raises(UserError):
        fail()


def collect(callback):
    """Calls back amid garbage collection, as JAX has itself called."""

    def once(*_):
        gc.callbacks.remove(once)
        callback()

    gc.callbacks.append(once)
    gc.collect()


def finalise(callback):
    """Calls an object's finaliser."""
    type("Mortal", (), {"__del__": callback})()


def forget(callback):
    """Calls back when an object is no more."""
    mortal = type("Mortal", (), {})()
    reference = weakref.ref(mortal, callback)
    del mortal
    assert reference() is None


@pytest.mark.parametrize("amid", [collect, finalise, forget])
def test_where_python_swallows_it_it_comes_again(amid, capfd):
    with cut_off(), preemption.listening():
        amid(terminate)
        for _ in range(2000):
            time.sleep(0.01)
    assert "Traceback" not in capfd.readouterr().err


def test_what_else_is_swallowed_is_told_as_ever(monkeypatch):
    told = []
    monkeypatch.setattr("sys.unraisablehook", told.append)
    with preemption.listening():
        collect(lambda: 1 / 0)
    assert [type(one.exc_value) for one in told] == [ZeroDivisionError]
