"""How much Python there is in a computation that is meant to be numpy's."""

import sys
from collections.abc import Callable


def count_lines(function: Callable[[], object]) -> int:
    """How many lines of Python are run, those of loops each time."""
    lines = 0

    def on_event(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return on_event

    before = sys.gettrace()
    sys.settrace(on_event)
    try:
        function()
    finally:
        sys.settrace(before)
    return lines
