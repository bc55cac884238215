"""Short sequences laid side by side into rows of one length, so that little is padding."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Packed(NamedTuple):
    """Rows of packed sequences; row r's sequences stand one after the other, then padding.

    Attributes:
      items: int32[R, L], item indices, 0 at padding.
      positions: int32[R, L], 0 at the start of each sequence, or at its end.
      segments: int32[R, L], 1, 2, … for the sequences of a row, 0 at padding.
    """

    items: np.ndarray
    positions: np.ndarray
    segments: np.ndarray


def slots(lengths: np.ndarray, row_length: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Finds each sequence a place, the longest first, in the fullest row that has room.

    That is best fit decreasing; its rows are at most 11/9 of the fewest possible and four more
    (Johnson et al. 1974), and with many short sequences nearly full. Sequences of one length take
    their places together, so that there are no more turns than pairs of a length and a room.

    Args:
      lengths: int[n], each 1 … row_length.
      row_length: L.

    Returns:
      The row and first column of each sequence, int64[n] each, and the number of rows.
    """
    rows, columns = np.empty(len(lengths), np.int64), np.empty(len(lengths), np.int64)
    by_room = [np.empty(0, np.int64)] * (row_length + 1)
    count = 0
    for length, waiting in _longest_first(lengths):
        while len(waiting):
            room = next((r for r in range(length, row_length) if len(by_room[r])), row_length)
            fit = room // length  # so many find a place in each row
            needed = -(-len(waiting) // fit)
            if room == row_length:
                by_room[room] = np.arange(count, count + needed)
                count += needed
            chosen, by_room[room] = np.split(by_room[room], [needed])
            placed, waiting = np.split(waiting, [len(chosen) * fit])
            row, turn = np.divmod(np.arange(len(placed)), fit)
            rows[placed], columns[placed] = chosen[row], row_length - room + turn * length
            left = room - np.bincount(row) * length  # the last row may have got fewer
            for value in np.unique(left):
                by_room[value] = np.concatenate([by_room[value], chosen[left == value]])
    return rows, columns, count


def _longest_first(lengths: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each length that occurs, and the sequences that have it, int64[…]."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    stops = np.cumsum(np.bincount(lengths)[::-1])
    yield from zip(range(len(stops) - 1, 0, -1), np.split(order, stops), strict=False)


def pack(
    offsets: np.ndarray, events: np.ndarray, row_length: int, newest_first: bool = False
) -> tuple[Packed, np.ndarray, np.ndarray]:
    """Packs whole sequences, in an order of their own within the rows.

    Args:
      offsets: int[n + 1]; sequence s is `events[offsets[s]:offsets[s + 1]]`, of 1 … L items.
      events: int[…], item indices.
      row_length: L.
      newest_first: counts positions from the last item of a sequence.

    Returns:
      The rows, and where each event went: its row and its column, int64[…] each.
    """
    lengths = np.diff(offsets)
    row_of, column_of, count = slots(lengths, row_length)
    within = np.arange(len(events)) - np.repeat(offsets[:-1], lengths)
    rows = np.repeat(row_of, lengths)
    columns = np.repeat(column_of, lengths) + within
    packed = Packed(*(np.zeros((count, row_length), np.int32) for _ in Packed._fields))
    packed.items[rows, columns] = events
    ages = np.repeat(lengths, lengths) - 1 - within
    packed.positions[rows, columns] = ages if newest_first else within
    # A sequence's number in its row is the number of sequences that begin up to it.
    packed.segments[row_of, column_of] = 1
    np.cumsum(packed.segments, axis=1, out=packed.segments)
    filled = np.zeros(packed.segments.shape, bool)
    filled[rows, columns] = True
    packed.segments[~filled] = 0
    return packed, rows, columns


def windows(offsets: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts sequences into inputs of at most `length` items and the item after each of them.

    A sequence is cut from its end, so that its last window is full, and each of its items but the
    first is a target exactly once.

    Offsets are int[n + 1], as in `pack`.

    Returns:
      starts and stops, int64[w] each: window w's inputs are `events[start:stop]`, its targets
      `events[start + 1:stop + 1]`. Sequences of a single item or none have no window.
    """
    first, last = np.asarray(offsets[:-1], np.int64), np.asarray(offsets[1:], np.int64) - 1
    counts = np.maximum(-(-(last - first) // length), 0)
    index = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    stops = np.repeat(last, counts) - index * length
    return np.maximum(stops - length, np.repeat(first, counts)), stops


def prefixes(offsets: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Every proper prefix of every sequence, of longer ones the newest `length` items.

    Offsets are int[n + 1], as in `pack`.

    Returns:
      starts and stops, int64[p] each: prefix q's inputs are `events[start:stop]`, and what comes
      next is `events[stop]`.
    """
    offsets = np.asarray(offsets, np.int64)
    first = np.repeat(offsets[:-1], np.diff(offsets))
    stops = np.flatnonzero(np.arange(len(first)) > first)
    return np.maximum(stops - length, first[stops]), stops
