"""The split of ratings into train, validation and test, 8:1:1.

It is made within the train events of the leave-one-out split. A rating sample shows items that one
user had, so a held-out event among them would tell a model that is trained on all tasks together
what the retrieval and ranking tests ask for.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

PARTS = {"train": 0, "validation": 1, "test": 2}
NO_PART = -1
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class RatingSplit:
    """The ratings of one split, by user, then oldest first; `len()` is their number m.

    Attributes:
      users: int32[m], user indices.
      items: int32[m], item indices, each at most once a user.
      ratings: float32[m], none missing.
      train_offsets: int64[num_users + 1].
      train_items: int32[t]; user u's training ratings, oldest first, are those of the items
        `train_items[train_offsets[u]:train_offsets[u + 1]]`, in every split.
      train_ratings: float32[t].
    """

    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray
    train_offsets: np.ndarray
    train_items: np.ndarray
    train_ratings: np.ndarray

    def __len__(self) -> int:
        return len(self.users)


class Rated(NamedTuple):
    """Events of some users, by user, then oldest first.

    Attributes:
      users: integer[n].
      items: integer[n].
      eligible: bool[n], the events that have a rating and may be used.
    """

    users: np.ndarray
    items: np.ndarray
    eligible: np.ndarray

    def newest(self) -> np.ndarray:
        """int64, ascending: the positions of the ratings that count."""
        events = np.flatnonzero(self.eligible)[::-1]
        pairs = self.users[events] * np.int64(self.items.max(initial=0) + 1) + self.items[events]
        return np.sort(events[np.unique(pairs, return_index=True)[1]])


def parts(
    pieces: Callable[[], Iterable[Rated]],
    num_items: int,
    seed: tuple[int, ...],
    scratch: Path | None = None,
) -> Iterator[np.ndarray]:
    """The part that each event's rating plays.

    An item that a user has rated more than once counts once, with the newest rating. One random
    rating of each user and of each item stays in train; a tenth of all, of the others, is for
    validation and as many for test, or what there is for equal halves.

    Args:
      pieces: gives the users with their events, ascending; it is called three times. Where one
        piece ends has no say.
      num_items: the size of the catalogue.
      seed: decides which.
      scratch: a folder for what has 16 bytes a rating; None for memory.

    Yields:
      int8[n] for each piece, values of `PARTS`, or `NO_PART`.
    """
    total = sum(len(piece.newest()) for piece in pieces())
    places = _shuffle(total, seed, scratch)
    # Of each user and of each item, the rating that comes first in random order stays in train.
    stays = np.zeros(total, bool)
    first = np.full(num_items, total)
    start = 0
    for piece in pieces():
        newest = piece.newest()
        here = places[start : start + len(newest)]
        start += len(newest)
        np.minimum.at(first, piece.items[newest], here)
        if len(newest):
            begins = np.flatnonzero(np.diff(piece.users[newest], prepend=-1))
            stays[np.minimum.reduceat(here, begins)] = True
    stays[first[first < total]] = True
    held = min(total // 10, int(total - np.count_nonzero(stays)) // 2)
    validation, test = (_find_end(~stays, count) for count in (held, 2 * held))
    start = 0
    for piece in pieces():
        newest = piece.newest()
        here = places[start : start + len(newest)]
        start += len(newest)
        chosen = np.full(len(newest), PARTS["train"], np.int8)
        others = ~stays[here]
        chosen[others & (here < test)] = PARTS["test"]
        chosen[others & (here < validation)] = PARTS["validation"]
        part = np.full(len(piece.users), NO_PART, np.int8)
        part[newest] = chosen
        yield part


def _shuffle(total: int, seed: tuple[int, ...], scratch: Path | None) -> np.ndarray:
    """int64[total], the place of each in a random order; in files of a folder, if there is one."""
    order, places = (_make_array(total, scratch and scratch / name) for name in ("order", "places"))
    blocks = [slice(start, min(start + _BLOCK, total)) for start in range(0, total, _BLOCK)]
    for block in blocks:
        order[block] = np.arange(block.start, block.stop)
    np.random.default_rng(seed).shuffle(order)
    for block in blocks:
        places[order[block]] = np.arange(block.start, block.stop)
    return places


def _make_array(size: int, path: Path | None) -> np.ndarray:
    if path is None or size == 0:
        return np.empty(size, np.int64)
    # As a plain array: NumPy shuffles one of a class of its own element by element, in Python.
    return np.memmap(path, np.int64, "w+", shape=(size,)).view(np.ndarray)


def _find_end(free: np.ndarray, count: int) -> int:
    """Where the first `count` of those that are free end."""
    for start in range(0, len(free), _BLOCK):
        there = np.flatnonzero(free[start : start + _BLOCK])
        if count <= len(there):
            return start + int(there[count - 1]) + 1 if count else start
        count -= len(there)
    return len(free)
