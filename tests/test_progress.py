"""A line a minute in a log, a bar on a terminal."""

import io
import logging
import sys
import time

import pytest

from recalign import progress
from recalign.progress import Progress, duration, readable, track


class Terminal(io.StringIO):
    """A standard error that somebody looks at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def lines(monkeypatch, caplog):
    """Gives the lines of a log, of which one comes every hundredth of a second."""
    monkeypatch.setattr(progress, "PERIOD", 0.01)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    caplog.set_level(logging.INFO, "recalign.progress")
    return lambda: [record.message for record in caplog.records]


def wait(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_a_log_gets_lines_by_the_clock(lines):
    with Progress("training", 40, done=10) as shown:
        wait(lines)  # be it that the first step takes long
        assert lines()[0] == "training: 10 of 40 steps"
        shown.update(20)
        shown.note("loss 0.500")
        wait(lambda: "30 of 40" in lines()[-1])
        assert lines()[-1].startswith("training: 30 of 40 steps, ")
        assert lines()[-1].endswith(" left, loss 0.500")
    time.sleep(0.03)  # what was being written is written
    count = len(lines())
    time.sleep(0.05)
    assert len(lines()) == count


def test_the_rate_is_of_what_was_done_since(monkeypatch):
    clock = iter([100.0, 110.0, 110.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress("training", 100, done=50, shown=False) as shown:
        shown.update(20)
        assert str(shown) == "training: 70 of 100 steps, 2.0 a second, 15 s left"
        shown.update(-18)
        assert str(shown) == "training: 52 of 100 steps, 5.0 s a step, 4 min 0 s left"


def test_bytes_are_told_as_such(monkeypatch):
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress("converting", 4 << 20, "B", shown=False) as shown:
        shown.update(1 << 20)
        assert str(shown) == "converting: 1.0 MB of 4.0 MB, 512.0 kB/s, 6 s left"


def test_what_cannot_be_counted_is_told_with_its_time(monkeypatch):
    clock = iter([0.0, 75.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress("making parameters", unit=None, shown=False) as shown:
        assert str(shown) == "making parameters: 1 min 15 s"
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("making parameters", unit=None):
        assert sys.stderr.getvalue().strip() == "making parameters …"


def test_what_ends_within_a_minute_leaves_no_line(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    caplog.set_level(logging.INFO, "recalign.progress")
    assert list(track([1, 2, 3], "ranking", "batch")) == [1, 2, 3]
    assert caplog.records == []
    assert sys.stderr.getvalue() == ""


def test_a_terminal_shows_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for _ in track(range(3), "ranking", "batch"):
        time.sleep(0.15)
    assert "ranking" in sys.stderr.getvalue()
    assert "3/3" in sys.stderr.getvalue()


def test_who_is_not_to_be_seen_is_silent(monkeypatch, lines):
    for _ in track(range(3), "ranking", "batch", shown=False):
        time.sleep(0.02)
    assert lines() == []
    monkeypatch.setattr(sys, "stderr", Terminal())
    list(track(range(3), "ranking", "batch", shown=False))
    assert sys.stderr.getvalue() == ""


def test_who_breaks_off_ends_the_lines(lines):
    for _ in track(range(3), "ranking", "batch"):
        break
    time.sleep(0.03)
    count = len(lines())
    time.sleep(0.05)
    assert len(lines()) == count


def test_sizes_and_times_for_people():
    assert [readable(n) for n in (0, 999, 2048, 3 << 20, 5 << 30)] == [
        "0 bytes",
        "999 bytes",
        "2.0 kB",
        "3.0 MB",
        "5.0 GB",
    ]
    assert [duration(s) for s in (0, 59.6, 3661)] == ["0 s", "1 min 0 s", "1 h 1 min 1 s"]
