"""What takes long says how far it is: a bar on a terminal, a line a minute in a log."""

import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Self, TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)

PERIOD = 60.0  # seconds between two lines of a log
_T = TypeVar("_T")


class Progress:
    """Counts how much of something is done, and shows it from `with` on.

    Args:
      what: is being done, "training".
      total: of the units that there are; None where nobody knows.
      unit: "step"; of "B", bytes, prefixes are shown; None where nothing can be counted.
      done: so many were done before.
      leave: whether a bar stays once all is done.
      shown: False is silent, as is a process that is not the first one of several.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        unit: str | None = "step",
        done: int = 0,
        leave: bool = False,
        shown: bool = True,
    ):
        self._what, self._total, self._unit = what, total, unit
        self._begun_at, self._done, self._leave, self._shown = done, done, leave, shown
        self._note = ""
        self._bar: tqdm | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        if not self._shown:
            return self
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=self._what,
                total=self._total,
                initial=self._done,
                unit=self._unit or "",
                unit_scale=self._unit == "B",
                bar_format=None if self._unit else "{desc} …",
                leave=self._leave,
            )
        else:
            # By the clock and not as units are done, so that one that takes long is not silent.
            threading.Thread(target=self._write_lines, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._bar is not None:
            self._bar.close()

    def update(self, units: int = 1) -> None:
        """Says that some more are done."""
        self._done += units
        if self._bar is not None:
            self._bar.update(units)

    def note(self, text: str) -> None:
        """Says something beside it: what is worked on now, or how well."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def _write_lines(self) -> None:
        while not self._ended.wait(PERIOD):
            log.info("%s", self)

    def __str__(self):
        done, seconds = self._done - self._begun_at, time.monotonic() - self._begin
        if self._unit is None:
            return f"{self._what}: {duration(seconds)}" + f", {self._note}" * bool(self._note)
        amount = readable if self._unit == "B" else lambda n: f"{n:,}"
        parts = [amount(self._done)]
        if self._total is not None:
            parts[0] += f" of {amount(self._total)}"
        if self._unit != "B":
            parts[0] += f" {self._unit}s" if self._unit != "batch" else " batches"
        if done and seconds:
            rate = done / seconds
            parts.append(f"{readable(rate)}/s" if self._unit == "B" else _rate(rate, self._unit))
            if self._total is not None:
                parts.append(f"{duration((self._total - self._done) / rate)} left")
        parts += [self._note] if self._note else []
        return f"{self._what}: {', '.join(parts)}"


def track(
    things: Iterable[_T], what: str, unit: str, total: int | None = None, shown: bool = True
) -> Iterator[_T]:
    """Gives things one by one and shows how many of them have been worked on.

    They are a sequence, or anything else with `total`; the rest is as in `Progress`.
    """
    total = len(things) if total is None and isinstance(things, Sized) else total
    with Progress(what, total, unit, shown=shown) as progress:
        for thing in things:
            yield thing
            progress.update()


def _rate(rate: float, unit: str) -> str:
    """Units a second, or seconds a unit where that is more than one."""
    return f"{rate:.1f} a second" if rate >= 1 else f"{1 / rate:.1f} s a {unit}"


def readable(size: float) -> str:
    """A number of bytes for people."""
    units = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB"), (1, "bytes")]
    unit, name = next(((u, n) for u, n in units if size >= u), units[-1])
    return f"{size / unit:.{0 if unit == 1 else 1}f} {name}"


def duration(seconds: float) -> str:
    """A number of seconds for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (hours + minutes > 0)
    return " ".join([*parts, f"{rest} s"])
