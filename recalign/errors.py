"""The one error a user is meant to see, and how it shows what was given."""


class UserError(Exception):
    """Something the user gave is wrong, and the message says what, where and what to do.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """


def shown(value: object) -> str:
    """A value as Python writes it, long ones cut, for an error message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits or depth than Python writes
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:60]} … {text[-15:]}"
