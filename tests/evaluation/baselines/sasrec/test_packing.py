"""Packing loses nothing, mixes nothing and wastes little."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.evaluation.baselines.sasrec import packing
from tests.evaluation.baselines.lines import count_lines

lengths_of = st.lists(st.integers(1, 9), min_size=1, max_size=40).map(np.array)


@given(lengths_of, st.integers(9, 20))
@settings(deadline=None)
def test_sequences_come_back_whole(lengths, row_length):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    events = np.arange(1, offsets[-1] + 1, dtype=np.int32)
    packed, rows, columns = packing.pack(offsets, events, row_length)
    assert packed.items[rows, columns].tolist() == events.tolist()
    assert np.count_nonzero(packed.segments) == len(events) == np.count_nonzero(packed.items)
    found = set()
    for row, segments in enumerate(packed.segments):
        for segment in set(segments[segments > 0]):
            here = segments == segment
            assert packed.positions[row, here].tolist() == list(range(here.sum()))
            found.add(tuple(packed.items[row, here].tolist()))
    assert found == {tuple(s.tolist()) for s in np.split(events, offsets[1:-1])}
    # Best fit opens a row only where no other has room: of any two, one is more than half full.
    filled = np.sort(np.count_nonzero(packed.segments, axis=1))
    assert (filled[:2].sum() > row_length) or len(filled) == 1


def test_short_sequences_fill_rows():
    lengths = np.random.default_rng(0).geometric(1 / 6, 5000).clip(1, 50)
    _, _, rows = packing.slots(lengths, 50)
    assert lengths.sum() / (rows * 50) > 0.99


@given(lengths_of, st.integers(9, 20))
@settings(deadline=None)
def test_places_are_those_of_best_fit_decreasing_one_by_one(lengths, row_length):
    rooms = []
    for length in sorted(lengths, reverse=True):
        room = min((r for r in rooms if r >= length), default=row_length)
        if room in rooms:
            rooms.remove(room)
        rooms.append(room - length)
    rows, columns, count = packing.slots(lengths, row_length)
    filled = np.bincount(rows, lengths, count)
    assert sorted(row_length - filled) == sorted(rooms)
    ends = columns + lengths
    for row in range(count):
        here = rows == row
        assert sorted(columns[here]) == [0, *sorted(ends[here])[:-1]]


def test_python_s_part_does_not_grow_with_the_sequences():
    lengths = np.random.default_rng(0).integers(1, 51, 100_000)
    assert count_lines(lambda: packing.slots(lengths, 50)) < 10_000


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(1, 5))
@settings(deadline=None)
def test_every_item_but_the_first_is_a_target_once(lengths, length):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    starts, stops = packing.windows(offsets, length)
    targets = [t for a, b in zip(starts, stops, strict=True) for t in range(a + 1, b + 1)]
    expected = [t for a, b in itertools.pairwise(offsets) for t in range(a + 1, b)]
    assert sorted(targets) == expected
    assert all(1 <= n <= length for n in stops - starts)
    # A window never leaves its sequence, and the newest one of a sequence is full.
    owners = np.repeat(np.arange(len(lengths)), lengths)
    assert all(owners[a] == owners[b] for a, b in zip(starts, stops, strict=True))
    newest = np.isin(stops, offsets[1:] - 1)
    whole = np.minimum(np.array(lengths)[owners[stops[newest]]] - 1, length)
    assert (stops - starts)[newest].tolist() == whole.tolist()


def test_positions_may_count_from_the_newest():
    offsets, events = np.array([0, 3, 4, 6]), np.arange(10, 16)
    oldest, *places = packing.pack(offsets, events, 5)
    newest, *same = packing.pack(offsets, events, 5, newest_first=True)
    np.testing.assert_array_equal(places, same)
    np.testing.assert_array_equal(oldest.items, newest.items)
    assert newest.positions[tuple(places)].tolist() == [2, 1, 0, 0, 1, 0]


def test_prefixes_are_all_proper_ones():
    offsets = np.array([0, 4, 4, 5, 7])
    starts, stops = packing.prefixes(offsets, 2)
    assert list(zip(starts, stops, strict=True)) == [(0, 1), (0, 2), (1, 3), (5, 6)]
