"""The one error a user is meant to see, what raises it everywhere, and what is no error."""

import contextlib
import os
import signal
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path


class UserError(Exception):
    """Something the user gave is wrong, and the message says what, where and what to do.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """


class Preempted(BaseException):
    """SIGTERM or Ctrl-C told the run to stop; a checkpoint holds where it was, if it had begun.

    It may come anywhere, and nothing that makes good for errors shall take it for one.

    Args:
      number: the signal.

    Attributes:
      exit_code: EX_TEMPFAIL of sysexits.h, which tells launchers to call the same command again;
        after Ctrl-C what a shell makes of it, 130.
    """

    def __init__(self, number: int = signal.SIGTERM):
        self._told = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        self.exit_code = 128 + number if number == signal.SIGINT else 75

    def __str__(self):
        again = "call the same command again to go on from the checkpoint"
        return f"told to stop ({self._told}); {again}"


class ProcessLostError(Exception):
    """Another of several processes that train as one has ended, and none can go on without it.

    The command line prints the message alone, and exits with code 1, whatever the other's was: who
    was told to stop ends with all others, so this one was killed, or failed.
    """


def check_positive(name: str, value: float) -> None:
    """Raises a UserError unless a number is at least 1."""
    if not value >= 1:  # NaN is not
        raise UserError(f"{name} is {value}, but must be at least 1")


def check_module_name(option: str, name: str) -> None:
    """Raises a UserError unless a name is one that Python imports."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(
            f"{option} is {name!r}, but must be a module's name, as in `import a.b`: of a "
            "file a/b.py, a.b, and the folder that a is in on PYTHONPATH"
        )


@contextlib.contextmanager
def telling_where(place: str) -> Iterator[None]:
    """Puts the place before what is wrong there."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


@contextlib.contextmanager
def telling_of_own_code(what: str, alone: bool = True) -> Iterator[None]:
    """A block that runs code of the user's own: what that raises is told as `what`, and its line.

    Args:
      what: begins the message.
      alone: the block runs nothing else that may fail; otherwise what is raised from no line of
        theirs is raised as it is.

    Raises:
      UserError: for whatever is raised.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        place = _place_in_own_code(error)
        if not (place or alone):
            raise
        raise UserError(f"{what}: {place}{type(error).__name__}: {error}") from error


def _place_in_own_code(error: BaseException) -> str:
    """The innermost line that is neither recalign's nor a library's, as "FILE, line N: "."""
    paths = sysconfig.get_paths()
    roots = str(Path(__file__).parent), paths["stdlib"], paths["purelib"]
    others = ("<", *(root + os.sep for root in roots))
    lines = traceback.extract_tb(error.__traceback__)
    own = [line for line in lines if not line.filename.startswith(others)]
    return f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""


def quote(value: object) -> str:
    """A value as Python writes it, long ones cut, for an error message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits or depth than Python writes
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:60]} … {text[-15:]}"
