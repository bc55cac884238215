"""The one error a user is meant to see."""


class UserError(Exception):
    """Something the user gave is wrong, and the message says what, where and what to do.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """
