"""The lock of a run's folder: one process at a time trains there, and a dead one is none.

On local disk the lock is the kernel's (`flock`), which a process loses with its life. A bucket has
none such. There it is a lease, an object `.lock-N` that tells its holder and is written anew every
`BEAT` seconds. Whoever wants to train looks on: a lease that changes has a living holder, one that
has not changed for `LEASE` seconds has a dead one. Nobody's clock is asked. To take it is to create
`.lock-<N+1>`, which a bucket lets one process do; the highest number counts, and each object is
written by the process alone that created it. Whoever takes a lease, or renews it, writes first and
looks then: of two that do so at the same time one at least sees the other, and gives way. So one
that was held up for so long that its lease was taken finds the higher number at its next beat, and
is stopped before it saves a checkpoint, or commits the one that it was writing.
"""

import contextlib
import datetime
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from recalign.errors import UserError
from recalign.files import create, in_bucket, make_folder, raising_os_errors, write_text

log = logging.getLogger(__name__)

LOCK = ".lock"
LOOKING = 0.1  # seconds; more than it takes to see who holds the lock
TRIES = 5  # each after so long; one who looks again and again may be met more than once
LEASE, BEAT = 60.0, 15.0  # seconds
_FREE = ""  # what its holder makes of a lease in the end; numbers never go back

Check = Callable[[], None]
"""Raises a UserError where the folder has become another process's."""


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[Check]:
    """Keeps other processes from training in a folder, which is made if absent.

    Raises:
      UserError: another process trains here, which is named; or nothing can be written here.
    """
    if in_bucket(folder):
        with _Lease(folder).hold() as check:
            yield check
        return
    try:
        make_folder(folder)
        lock = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise _unwritable(folder, error.strerror or str(error)) from error
    with lock as file:
        try:
            _lock(file)
        except OSError as error:
            file.seek(0)
            raise _busy(folder, file.read().strip()) from error
        file.truncate(0)
        file.write(f"{_this_process()}\n")
        file.flush()
        yield lambda: None


def find_holder(folder: Path) -> str | None:
    """The process that trains in a folder now, as it wrote itself down; None where none does.

    A lease is one for `LEASE` seconds here, by our clock and the bucket's: nothing rests on it.
    """
    if in_bucket(folder):
        number, content = _newest(folder)
        if content == _FREE or time.time() - _path(folder, number).stat().mtime > LEASE:
            return None
        return _holder(content)
    try:
        file = (folder / LOCK).open(encoding="utf-8")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "a process"
    return None


def _lock(file: IO) -> None:
    """Takes the lock; who only asks for its holder has it for a moment, which is waited for."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(LOOKING)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class _Lease:
    """A process's own lease of a folder in a bucket."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._token = uuid.uuid4().hex
        self._number = 0
        self._beaten = 0.0  # when it was last renewed, by this process's monotonic clock
        self._taker: str | None = None
        self._ended = threading.Event()
        self._writing = threading.Lock()

    @contextlib.contextmanager
    def hold(self) -> Iterator[Check]:
        """Has the lease while the block runs.

        Raises:
          UserError: see `lock_folder`.
        """
        try:
            self._take()
        except FileNotFoundError as error:  # a folder that is not there is an empty one
            raise _unwritable(self._folder, "there is no such bucket") from error
        except OSError as error:
            raise _unwritable(self._folder, str(error).strip()) from error
        heart = threading.Thread(target=self._beat_on, name="lease", daemon=True)
        heart.start()
        try:
            yield self._check
        finally:
            self._ended.set()
            heart.join()
            self._free()

    def _check(self) -> None:
        """Raises a UserError where another process has taken the lease meanwhile, or may have."""
        silent = time.monotonic() - self._beaten
        if silent > LEASE / 2:  # the machine slept, or the bucket cannot be reached
            try:
                self._beat()
            except OSError as error:
                raise UserError(
                    f"{self._folder} could not be written to for {silent:.0f} seconds "
                    f"({str(error).strip()}), and may be another process's by now: call the same "
                    "command again"
                ) from error
        if self._taker is not None:
            raise UserError(
                f"{self._folder}: this process gave no sign of life for {LEASE:.0f} seconds, and "
                f"another one trains here by now ({self._taker}): this one stops"
            )

    def _take(self) -> None:
        """Takes the lease, which a living process has not.

        Raises:
          UserError: one has it.
        """
        number, seen = _newest(self._folder)
        if seen != _FREE:
            log.warning(
                "%s: another process (%s) trains here, or was killed: waiting for a sign of life, "
                "for %.0f seconds",
                self._folder,
                _holder(seen),
                LEASE,
            )
        end = time.monotonic() + LEASE
        while seen != _FREE and time.monotonic() < end:
            time.sleep(min(1.0, BEAT / 5))
            if (newest := _newest(self._folder)) != (number, seen):
                number, seen = newest
                if seen != _FREE:
                    raise _busy(self._folder, _holder(seen))
        begun = time.monotonic()
        self._number, own = number + 1, self._text()
        if not create(self._path, own) and (theirs := _read(self._path)) != own:
            raise _busy(self._folder, _holder(theirs))
        self._beaten = begun
        newest, theirs = _newest(self._folder)
        faster = newest != self._number
        back = not faster and (theirs := _read(_path(self._folder, number))) not in (seen, _FREE)
        if faster or back:
            _remove(self._folder, self._number)
            raise _busy(self._folder, _holder(theirs))
        for older in _numbers(self._folder):
            if older < self._number:
                _remove(self._folder, older)

    def _beat_on(self) -> None:
        while not self._ended.wait(BEAT) and self._taker is None:
            try:
                self._beat()
            except OSError as error:  # the bucket cannot be reached: it may be the next time
                log.warning("%s: the lease could not be renewed: %s", self._path, error)

    def _beat(self) -> None:
        """Writes the lease anew, or finds that it is another's."""
        with self._writing:
            begun = time.monotonic()
            write_text(self._path, self._text())
            number, content = _newest(self._folder)
            if number == self._number:
                self._beaten = begun
                return
            self._taker = _holder(content)
            _remove(self._folder, self._number)

    def _free(self) -> None:
        if self._taker is None:
            try:
                write_text(self._path, _FREE)
            except OSError as error:
                log.warning("%s: it is free in %.0f seconds only: %s", self._path, LEASE, error)

    def _text(self) -> str:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        said = {"holder": _this_process(), "renewed": now, "token": self._token}
        return json.dumps(said) + "\n"

    @property
    def _path(self) -> Path:
        return _path(self._folder, self._number)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{LOCK}-{number}"


def _numbers(folder: Path) -> list[int]:
    with raising_os_errors(folder):
        names = [path.name.rpartition("-")[2] for path in folder.glob(f"{LOCK}-*")]
    return sorted(int(name) for name in names if name.isdecimal())


def _newest(folder: Path) -> tuple[int, str]:
    """The number and content of the lease that counts; 0 and `_FREE` where there was none."""
    number = max(_numbers(folder), default=0)
    return number, _read(_path(folder, number)) if number else _FREE


def _read(path: Path) -> str:
    try:
        with raising_os_errors(path):
            return path.read_text(encoding="utf-8")
    except FileNotFoundError:  # whoever took the next one has removed it since
        return _FREE


def _remove(folder: Path, number: int) -> None:
    path = _path(folder, number)
    with raising_os_errors(path):
        path.unlink(missing_ok=True)


def _holder(content: str) -> str:
    try:
        return str(json.loads(content)["holder"])
    except (ValueError, TypeError, KeyError):
        return "a process"


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _busy(folder: Path, holder: str) -> UserError:
    return UserError(
        f"{folder}: another process trains here ({holder}): stop it first, or name another "
        "MODEL_DIR"
    )


def _unwritable(folder: Path, why: str) -> UserError:
    return UserError(f"MODEL_DIR is {folder}, where no run can be written: {why}")
