"""Ids as somebody typed them: found, or answered with those that are nearly the same."""

import itertools
from collections.abc import Iterator, Mapping

from recalign.errors import UserError

LONGEST = 64
"""Characters of an unknown id that are looked at, and shown."""

ALPHABET = 100
"""Characters that another id may have in the place of a wrong one."""

SUGGESTED = 3


class Ids:
    """The index of each id of one kind.

    However many ids there are, an unknown one costs a few thousand look-ups at most: it may come
    from anybody.

    Args:
      what: the kind, "item" or "user".
      domain: whose ids they are.
      index_of: the index of each id.
    """

    def __init__(self, what: str, domain: str, index_of: Mapping[str, int]):
        self._what, self._domain, self._index_of = what, domain, index_of
        some = itertools.islice(index_of, 0, None, max(1, len(index_of) // 1000))
        self._alphabet = sorted(set().union(*some))[:ALPHABET]

    def find(self, key: str) -> int:
        """The index of an id.

        Raises:
          UserError: it is unknown; ids that differ from it in one character are told.
        """
        if key in self._index_of:
            return self._index_of[key]
        shown = key if len(key) <= LONGEST else f"{key[:LONGEST]}…"
        known = dict.fromkeys(other for other in self._edits(shown) if other in self._index_of)
        near = " or ".join(itertools.islice(known, SUGGESTED))
        hint = f"did you mean {near}?" if near else "no id is similar"
        raise UserError(f"{self._domain} has no {self._what} {shown!r}; {hint}")

    def _edits(self, key: str) -> Iterator[str]:
        """Everything that one slip of the hand may have turned into `key`."""
        for place in range(len(key) - 1, -1, -1):  # ids of a kind begin alike and end apart
            head, wrong, tail = key[:place], key[place], key[place + 1 :]
            yield from (head + right + tail for right in self._alphabet)
            yield head + tail
            yield from (head + wrong + missing + tail for missing in self._alphabet)
            yield head + tail[:1] + wrong + tail[1:]
        yield from (missing + key for missing in self._alphabet)
        yield from (key.upper(), key.lower(), key.strip())
