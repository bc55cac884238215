"""Candidate lists: one positive among negatives that its user never touched, drawn once and stored.

A list is the same for every model and baseline. It lies in the domain's folder as a .npy file,
which is read without being loaded.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

NEGATIVES = 99
# A chunk has at most so many pairs of a user and an item, and so many users.
CHUNK_CELLS = 1 << 26
CHUNK_ROWS = 1 << 12
# Of what a sorted number says: a cell, and in these bits the column that drew it, or that it is
# taken.
_BITS = 7
_TAKEN = (1 << _BITS) - 1


class Touched(Protocol):
    """What a domain tells of its events; user u has `events[offsets[u]:offsets[u + 1]]`."""

    offsets: np.ndarray
    events: np.ndarray
    num_items: int


def num_negatives(train: tuple[np.ndarray, np.ndarray], num_items: int, held_out: int) -> int:
    """How many negatives a list has: 99, or as many as there are for every user.

    Lists of one length keep chance the same for everybody, and the metrics are named after it.
    Training draws as many, so only the number of held-out events may count, not what they are.

    Args:
      train: offsets int64[users + 1] and events int32[n] of every user's train events.
      num_items: the size of the catalogue.
      held_out: how many events more a user may have.
    """
    offsets, events = train
    lengths = np.diff(offsets)
    if num_items - held_out - lengths.max() >= NEGATIVES:
        return NEGATIVES
    most = int(count_distinct(offsets, events, num_items).max())
    return int(np.clip(num_items - held_out - most, 0, NEGATIVES))


def count_distinct(offsets: np.ndarray, events: np.ndarray, num_items: int) -> np.ndarray:
    """How many different items each user has, int64[users]; arguments as for `num_negatives`."""
    lengths = np.diff(offsets)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    pairs = np.unique(owners * np.int64(num_items) + events)
    return np.bincount(pairs // num_items, minlength=len(lengths))


def draw(
    pieces: Iterable[tuple[Touched, np.ndarray, np.ndarray]],
    num_items: int,
    negatives: int,
    seed: tuple[int, ...],
) -> Iterator[np.ndarray]:
    """The lists of some users, chunk by chunk.

    The negatives of a list are distinct, and uniform over the items without an event of its user in
    any split. They and the positive stand in random order.

    Args:
      pieces: the events of some users, one piece after the other, whose borders have no say; of
        each the users asked about, int[m], ascending, and the item that each is to find, int[m].
      num_items: the size of the catalogue.
      negatives: n, as of `num_negatives`.
      seed: of all that is drawn; the chunks belong to what it decides.

    Yields:
      int32[rows, 1 + n], item indices; a row for each user asked about.
    """
    rng = np.random.default_rng(seed)
    rows = int(np.clip(CHUNK_CELLS // num_items, 1, CHUNK_ROWS))
    for owner, events, positives in _batch(pieces, rows):
        taken = owner * num_items + events
        drawn = _throw(taken, (len(positives), negatives), num_items, rng)
        lists = np.column_stack([positives, drawn]).astype(np.int32)
        yield rng.permuted(lists, axis=1)


def _batch(
    pieces: Iterable[tuple[Touched, np.ndarray, np.ndarray]], rows: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """Of `rows` users at a time, the last excepted: each event's row, its item; the positives."""
    pending, count = [], 0
    for domain, users, positives in pieces:
        start = 0
        while start < len(users):
            chunk = slice(start, start + rows - count)
            owner, events = _events_of(domain, users[chunk])
            pending.append((owner + count, events, positives[chunk]))
            count += len(positives[chunk])
            start = chunk.stop
            if count == rows:
                yield tuple(map(np.concatenate, zip(*pending, strict=True)))
                pending, count = [], 0
    if pending:
        yield tuple(map(np.concatenate, zip(*pending, strict=True)))


def _throw(
    taken: np.ndarray, shape: tuple[int, int], num_items: int, rng: np.random.Generator
) -> np.ndarray:
    """Distinct items for each row, int64[rows, columns], none in a cell that is taken.

    A cell is `row * num_items + item`. Every place draws an item; what is taken, or lost to a later
    column of the row, is drawn again. No step tells one free item from another, so all sets of them
    are equally likely. Cells are compared by sorting: in a table of a large catalogue each look
    would miss the cache.
    """
    drawn = np.zeros(shape, np.int64)
    row, column = (index.ravel() for index in np.indices(shape, np.int64))
    taken = np.sort(taken << _BITS | _TAKEN)
    while len(row):
        item = rng.integers(num_items, size=len(row))
        drawn[row, column] = item
        marks = np.sort((row * num_items + item) << _BITS | column)
        both = np.sort(np.concatenate([taken, marks]), kind="stable")  # merges what is sorted
        # Of the marks of a cell the last has it; whatever is taken comes last.
        lost = both[:-1][both[:-1] >> _BITS == both[1:] >> _BITS]
        lost = lost[lost & _TAKEN != _TAKEN]
        taken = both | _TAKEN
        again = np.sort((lost >> _BITS) // num_items << _BITS | lost & _TAKEN)
        row, column = again >> _BITS, again & _TAKEN
    return drawn


def _events_of(domain: Touched, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every event of some users, ascending: its row in `users`, and its item."""
    first, last = domain.offsets[users[0]], domain.offsets[users[-1] + 1]
    owners = np.repeat(
        np.arange(users[0], users[-1] + 1), np.diff(domain.offsets[users[0] : users[-1] + 2])
    )
    rows = np.minimum(np.searchsorted(users, owners), len(users) - 1)
    meant = users[rows] == owners
    return rows[meant], domain.events[first:last][meant]


def read_rows(lists: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Some of the lists; what is read of a mapped file counts as this process's memory no longer.

    Args:
      lists: int32[m, C], see `Domain.candidates`.
      start: the first of them.
      stop: the one after the last.
    """
    if isinstance(lists, np.memmap):
        lists = np.memmap(lists.filename, lists.dtype, "r", lists.offset, lists.shape)
    return np.array(lists[start:stop])


def write(path: Path, lists: Iterator[np.ndarray], shape: tuple[int, int]) -> str:
    """Writes lists as a .npy file, a chunk at a time, and returns its sha256."""
    digest = hashlib.sha256()

    class Hashed:
        def write(self, content: bytes) -> None:
            digest.update(content)
            file.write(content)

    with path.open("wb") as file:
        header = {"descr": "<i4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(Hashed(), header)
        for chunk in lists:
            Hashed().write(np.ascontiguousarray(chunk, "<i4").data)
    return digest.hexdigest()
