"""Closed forms against a dense solve in float64 of their equations, and their refusals."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp

from recalign.errors import UserError
from recalign.evaluation.baselines import closed_form
from recalign.evaluation.baselines.closed_form import (
    EASE,
    SLIT,
    TALE,
    check_memory,
    fill_times,
    prefixes,
    trend,
)
from recalign.evaluation.baselines.rankers import Histories

ITEMS = 40


def sequences(count, longest, seed):
    rng = np.random.default_rng(seed)
    found = [rng.integers(0, ITEMS, rng.integers(1, longest)) for _ in range(count)]
    return np.cumsum([0, *map(len, found)]), np.concatenate(found).astype(np.int32)


@pytest.fixture
def shop():
    offsets, events = sequences(60, 9, seed=0)
    held = Histories(*sequences(30, 7, seed=1))
    targets = np.random.default_rng(2).integers(0, ITEMS, 30)
    return offsets, events, held, targets


def rows_of(offsets, events):
    return [events[a:b].tolist() for a, b in itertools.pairwise(offsets)]


def scores_by_hand(weights, histories, decay):
    found = np.zeros((len(histories), ITEMS))
    for row, history in zip(found, histories, strict=True):
        for age, item in enumerate(reversed(history)):
            row += decay**age * weights[item]
    return found


def test_a_large_matrix_is_inverted_whole():
    """Its other triangle is filled in by blocks of 1024 rows."""
    items = 1030
    taken = sp.random_array((3000, items), density=0.003, rng=np.random.default_rng(0))
    gram = (taken.T @ taken).tocsr()
    found = closed_form._inverse(gram, 10.0)
    np.testing.assert_array_equal(found, found.T)
    regular = gram.toarray() + 10.0 * np.eye(items)
    np.testing.assert_allclose(found @ regular.astype(np.float32), np.eye(items), atol=1e-5)


def test_ease_solves_its_equation(shop):
    offsets, events, held, targets = shop
    ease = EASE(held, targets, penalties=[3.0], decays=[0.6]).fit(offsets, events, ITEMS)
    taken = np.zeros((60, ITEMS))
    for user, items in enumerate(rows_of(offsets, events)):
        taken[user, items] = 1
    inverse = np.linalg.inv(taken.T @ taken + 3.0 * np.eye(ITEMS))
    expected = np.eye(ITEMS) - inverse / np.diag(inverse)
    np.testing.assert_allclose(ease.weights, expected, atol=2e-5)
    assert np.all(np.diag(ease.weights) == 0)
    by_hand = scores_by_hand(expected, rows_of(*held[:2]), 0.6)
    candidates = np.tile(np.arange(ITEMS), (30, 1))
    np.testing.assert_allclose(ease.score(held, candidates), by_hand, atol=1e-4)


def assert_solves(model, read, nexts, held):
    """With the penalty 2 and the reading span 2, against a dense solve and scores by hand."""
    expected = np.linalg.solve(read.T @ read + 2.0 * np.eye(ITEMS), read.T @ nexts)
    np.testing.assert_allclose(model.weights, expected, atol=2e-5)
    by_hand = scores_by_hand(expected, rows_of(*held[:2]), np.exp(-1 / 2.0))
    candidates = np.tile(np.arange(ITEMS), (30, 1))
    np.testing.assert_allclose(model.score(held, candidates), by_hand, atol=1e-4)


def test_slit_solves_its_equation(shop):
    offsets, events, held, targets = shop
    slit = SLIT(held, targets, penalties=[2.0], spans=[1.5], reading_spans=[2.0], floor=0.3)
    slit.fit(offsets, events, ITEMS)
    pairs = [
        (items[:p], items[p]) for items in rows_of(offsets, events) for p in range(1, len(items))
    ]
    read, nexts = np.zeros((len(pairs), ITEMS)), np.zeros((len(pairs), ITEMS))
    for row, (prefix, item) in enumerate(pairs):
        for age, earlier in enumerate(reversed(prefix)):
            read[row, earlier] += max(np.exp(-age / 1.5), 0.3)
        nexts[row, item] = 1
    assert_solves(slit, read, nexts, held)


def times_of(offsets):
    """Days, ascending in most sequences, some equal; those of the others are in file order."""
    days = np.split(np.random.default_rng(3).integers(0, 90, offsets[-1]), offsets[1:-1])
    return np.concatenate([own if s % 9 == 0 else np.sort(own) for s, own in enumerate(days)]) / 2


def test_tale_solves_its_equation(shop):
    offsets, events, held, targets = shop
    times = times_of(offsets)
    tale = TALE(
        held,
        targets,
        times,
        penalties=[2.0],
        spans=[4.0],
        floors=[0.3],
        reading_spans=[2.0],
        power=-0.5,
        window=10.0,
    ).fit(offsets, events, ITEMS)
    trends = [
        sum(e == event and time - 10 <= t <= time for e, t in zip(events, times, strict=True))
        for event, time in zip(events, times, strict=True)
    ]
    np.testing.assert_array_equal(trend(events, times, 10.0), trends)
    pairs = [(range(a, p), p) for a, b in itertools.pairwise(offsets) for p in range(a + 1, b)]
    read, nexts = np.zeros((len(pairs), ITEMS)), np.zeros((len(pairs), ITEMS))
    for row, (prefix, then) in enumerate(pairs):
        for earlier in prefix:
            weight = max(np.exp(-abs(times[then] - times[earlier]) / 4.0), 0.3)
            read[row, events[earlier]] += weight * trends[earlier] ** -0.5
        nexts[row, events[then]] = trends[then] ** -0.5
    assert_solves(tale, read, nexts, held)


def test_tale_is_slit_where_time_tells_nothing_else(shop):
    """A day between two events, and no say for trends."""
    offsets, events, held, targets = shop
    days = np.concatenate([np.arange(n) for n in np.diff(offsets)])
    given = {"penalties": [2.0], "reading_spans": [2.0]}
    tale = TALE(held, targets, days, spans=[1.5], floors=[0.0], power=0.0, **given)
    slit = SLIT(held, targets, spans=[1.5], floor=0.0, **given)
    # The newest neighbour is a day old to one, and 0 events to the other.
    scale = np.exp(-1 / 1.5)
    slit._penalties = (2.0 / scale**2,)
    both = [model.fit(offsets, events, ITEMS).weights for model in (tale, slit)]
    np.testing.assert_allclose(both[0] * scale, both[1], atol=2e-5)


def test_no_events_have_no_trend():
    assert trend(np.zeros(0, np.int32), np.zeros(0), 10.0).shape == (0,)


def test_prefixes_are_all_proper_ones_newest_first():
    offsets, events = np.array([0, 3, 4, 6]), np.array([5, 6, 7, 8, 9, 1])
    rows, items, ages, targets = prefixes(offsets, events)
    assert targets.tolist() == [6, 7, 1]
    assert rows.tolist() == [0, 1, 1, 2]
    assert items.tolist() == [5, 6, 5, 9]
    assert ages.tolist() == [0, 0, 1, 0]
    rows, items, *_ = prefixes(offsets, events, longest=1)
    assert (rows.tolist(), items.tolist()) == ([0, 1, 2], [5, 6, 9])


@pytest.mark.parametrize(
    ("make", "grid"),
    [
        (EASE, {"penalties": [1.0, 30.0], "decays": [0.5, 1.0]}),
        (SLIT, {"penalties": [1.0, 30.0], "spans": [1.0, 3.0], "reading_spans": [1.0, 3.0]}),
        (TALE, {"penalties": [1.0, 30.0], "spans": [1.0, 9.0], "floors": [0.1, 0.6]}),
    ],
)
def test_what_validation_says_is_taken(shop, make, grid, caplog):
    offsets, events, held, targets = shop
    grid = grid | ({"times": times_of(offsets)} if make is TALE else {})
    with caplog.at_level("INFO"):
        chosen = make(held, targets, **grid).fit(offsets, events, ITEMS)
    told = {}  # the best of each setting, whichever the decay
    for _, setting, _, ndcg in (r.args for r in caplog.records if "validation" in r.msg):
        told[setting] = max(ndcg, told.get(setting, 0))
    assert chosen.unseen_ndcg(held, targets) == pytest.approx(max(told.values()), abs=1e-5)
    options = [grid[name] for name in ("penalties", "spans", "floors") if name in grid]
    best, tried = tuple(first for first, *_ in options), set()
    for place, values in enumerate(options):  # one parameter after the other
        these = [(*best[:place], value, *best[place + 1 :]) for value in values]
        tried.update(these)
        best = max(these, key=told.get)
    assert (told.keys(), chosen.setting) == (tried, best)


def test_the_first_histories_decide(shop, monkeypatch):
    offsets, events, held, targets = shop
    monkeypatch.setattr(closed_form, "JUDGED", 12)
    seen = []
    monkeypatch.setattr(EASE, "unseen_ndcg", lambda self, *asked: seen.append(asked) or 0.5)
    EASE(held, targets).fit(offsets, events, ITEMS)
    for histories, nexts in seen:
        assert rows_of(*histories[:2]) == rows_of(*held[:2])[:12]
        assert nexts.tolist() == targets[:12].tolist()


def test_a_catalogue_too_large_is_refused_before_memory_is_taken(monkeypatch):
    class Little:
        available = 2**30

    monkeypatch.setattr(closed_form.psutil, "virtual_memory", lambda: Little)
    with pytest.raises(
        UserError, match=r"EASE over 100000 items takes 149\.0 GiB.* up to 8192 items"
    ):
        check_memory(100_000, "EASE")
    check_memory(8192, "EASE")


def test_the_inverse_of_more_than_one_block(monkeypatch):
    rng = np.random.default_rng(0)
    read = closed_form.sp.csr_array((rng.random((3000, 1100)) < 0.01).astype(np.float32))
    gram = read.T @ read
    found = closed_form._inverse(gram, 5.0)
    np.testing.assert_allclose(
        found, np.linalg.inv(gram.toarray().astype(float) + 5.0 * np.eye(1100)), atol=1e-5
    )
    assert found.flags.c_contiguous


def test_a_time_that_is_missing_is_that_of_the_event_before_it():
    nan = np.nan
    times = np.array([nan, 3, nan, nan, 9, nan, nan, 4, 5])
    found = fill_times(np.array([0, 5, 5, 7, 9]), times)
    assert found.tolist() == [3, 3, 3, 3, 9, 4.5, 4.5, 4, 5]
    whole = np.array([2, 1, 7])
    assert fill_times(np.array([0, 1, 3]), whole).tolist() == [2, 1, 7]
