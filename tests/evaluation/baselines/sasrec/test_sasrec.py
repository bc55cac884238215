"""SASRec: packed rows against single ones, the loss against its definition, and what it learns."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from recalign.evaluation.baselines.rankers import Histories
from recalign.evaluation.baselines.sasrec import packing
from recalign.evaluation.baselines.sasrec.network import LowPass, SASRec, SASRecConfig, loss
from recalign.evaluation.baselines.sasrec.packing import Packed
from recalign.evaluation.baselines.sasrec.ranker import SASRecRanker
from recalign.evaluation.baselines.sasrec.training import (
    Recipe,
    _prefix_batches,
    _start,
    fit,
    last_states,
)
from recalign.evaluation.metrics import full_ranking

CONFIG = SASRecConfig(num_items=11, max_length=8, dim=12, dropout=0.4)
FILTERED = dataclasses.replace(CONFIG, low_pass=3, filter_share=0.7, newest_first=True)


@pytest.fixture(scope="module")
def params():
    """Parameters far from their small start, so that every part has its say."""
    return some_params(CONFIG)


def some_params(config):
    module = SASRec(config)
    empty = Packed(*np.zeros((3, 1, 8), np.int32))
    leaves, tree = jax.tree.flatten(module.init(jax.random.key(0), empty)["params"])
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(
        tree, [rng.normal(0, 0.7, leaf.shape).astype(np.float32) for leaf in leaves]
    )


def states(params, *rows, config=CONFIG):
    """The states of rows of (items, positions, segments)."""
    packed = Packed(*np.array(rows, np.int32).transpose(1, 0, 2))
    return np.asarray(SASRec(config).apply({"params": params}, packed))


A, B = [3, 1, 4], [1, 5, 9, 2]


def alone(items):
    rest = [0] * (8 - len(items))
    return items + rest, [*range(len(items)), *rest], [1] * len(items) + rest


def test_a_packed_sequence_has_the_states_it_has_alone(params):
    both = states(params, (A + B + [0], [0, 1, 2, 0, 1, 2, 3, 0], [1] * 3 + [2] * 4 + [0]))
    single = states(params, alone(A), alone(B))
    np.testing.assert_allclose(both[0, :3], single[0, :3], atol=1e-5)
    np.testing.assert_allclose(both[0, 3:7], single[1, :4], atol=1e-5)


def test_the_future_changes_nothing_and_the_past_does(params):
    first = states(params, alone(B))[0]
    future = states(params, alone([*B[:3], 7]))[0]
    np.testing.assert_array_equal(first[:3], future[:3])
    assert np.abs(first[3] - future[3]).max() > 1e-2
    past = states(params, alone([8, *B[1:]]))[0]
    assert (np.abs(first[:4] - past[:4]).max(axis=1) > 1e-3).all()


def test_padding_may_hold_anything(params):
    items, positions, segments = alone(A)
    filled = states(params, (A + [7] * 5, positions[:3] + [5] * 5, segments))
    np.testing.assert_array_equal(
        filled[0, :3], states(params, (items, positions, segments))[0, :3]
    )


def test_last_states_are_those_of_each_history_alone(params):
    rng = np.random.default_rng(1)
    lengths = np.array([3, 0, 13, 8, 1, 5, 2, 2])  # empty and too long ones too
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    events = rng.integers(0, 11, offsets[-1]).astype(np.int32)
    got = last_states(SASRec(CONFIG), params, offsets, events, rows=2)
    assert got.dtype == np.float32
    for row, history in zip(got, np.split(events, offsets[1:-1]), strict=True):
        newest = history[-8:].tolist()
        expected = states(params, alone(newest))[0, len(newest) - 1] if newest else np.zeros(12)
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_the_loss_is_that_of_a_dense_softmax(params):
    rng = np.random.default_rng(2)
    offsets = np.array([0, 3, 7, 12])
    packed, rows, columns = packing.pack(offsets, rng.integers(0, 11, 12).astype(np.int32), 8)
    targets = rng.integers(0, 11, packed.items.shape).astype(np.int32)
    hidden = np.asarray(SASRec(CONFIG).apply({"params": params}, packed), float)
    scores = hidden @ np.asarray(params["items"]["embedding"], float).T
    logs = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    expected = -np.mean([logs[r, c, targets[r, c]] for r, c in zip(rows, columns, strict=True)])
    got = loss(SASRec(CONFIG), params, packed, targets)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    padding = packed.segments == 0
    assert padding.any()
    other = np.where(padding, 10 - targets, targets)
    assert loss(SASRec(CONFIG), params, packed, other) == got


def test_dropout_is_for_training_alone(params):
    packed = Packed(*np.array([alone(A)], np.int32).transpose(1, 0, 2))
    targets = np.zeros_like(packed.items)
    plain = loss(SASRec(CONFIG), params, packed, targets)
    keys = [jax.random.key(seed) for seed in (0, 0, 1)]
    a, b, c = (loss(SASRec(CONFIG), params, packed, targets, key) for key in keys)
    assert a == b
    assert len({float(plain), float(a), float(c)}) == 3


def walks(users=150, num_items=23, length=6, seed=0):
    """Everyone walks a circle of items in steps of two or of five: two items tell the next."""
    rng = np.random.default_rng(seed)
    starts, steps = rng.integers(0, num_items, users), rng.choice([2, 5], users)
    taken = (starts[:, None] + steps[:, None] * np.arange(length + 1)) % num_items
    offsets = length * np.arange(users + 1)
    return Histories(offsets, taken[:, :-1].ravel().astype(np.int32)), taken[:, -1]


@pytest.mark.parametrize("length", [8, 7])
@pytest.mark.parametrize("low_pass", [1, 3, 5])
def test_the_filter_is_a_fourier_sum_cut_off(length, low_pass):
    """By its definition: every frequency's share of a sequence, one after the other."""
    config = SASRecConfig(num_items=11, max_length=length, dim=3, low_pass=low_pass)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, length, 3)).astype(np.float32)
    beta = rng.normal(size=3).astype(np.float32)
    used = 5  # the others are padding, which holds zeros as far as the filter is concerned
    same = np.zeros((1, length, length), bool)
    same[0, :used, :used] = True
    got = LowPass(config).apply({"params": {"beta": beta}}, x, same)[0, :used]
    sequence = np.where(np.arange(length)[:, None] < used, x[0], 0).astype(float)
    places = np.arange(length)
    low = np.zeros((length, 3))
    for frequency in range(-(low_pass // 2), low_pass // 2 + 1):
        wave = np.exp(2j * np.pi * frequency * places / length)
        share = (sequence * wave.conj()[:, None]).sum(axis=0) / length
        low += (wave[:, None] * share).real
    expected = low + beta.astype(float) ** 2 * (sequence - low)
    np.testing.assert_allclose(got, expected[:used], atol=1e-5)


def test_a_packed_sequence_is_filtered_as_it_is_alone():
    params = some_params(FILTERED)

    def newest_first(items):
        items, positions, segments = alone(items)
        length = sum(segments)
        return items, [*range(length)][::-1] + positions[length:], segments

    row = (A + B + [0], [2, 1, 0, 3, 2, 1, 0, 0], [1] * 3 + [2] * 4 + [0])
    both = states(params, row, config=FILTERED)
    single = states(params, newest_first(A), newest_first(B), config=FILTERED)
    np.testing.assert_allclose(both[0, :3], single[0, :3], atol=1e-5)
    np.testing.assert_allclose(both[0, 3:7], single[1, :4], atol=1e-5)
    offsets, events = np.array([0, 3, 7]), np.array(A + B, np.int32)
    last = last_states(SASRec(FILTERED), params, offsets, events)
    np.testing.assert_allclose(last, [single[0, 2], single[1, 3]], atol=1e-5)
    # It sees the whole sequence, and attention has its share beside it.
    changed = states(params, newest_first([*B[:3], 7]), config=FILTERED)
    assert np.abs(changed[0, 0] - single[1, 0]).max() > 1e-3
    unmixed = dataclasses.replace(FILTERED, filter_share=1.0)
    assert np.abs(states(params, row, config=unmixed) - both).max() > 1e-2


def test_a_filter_that_looks_ahead_is_asked_at_the_end_alone():
    with pytest.raises(ValueError, match="sees the items"):
        fit(FILTERED, Recipe(epochs=1), np.array([0, 3]), np.array([1, 2, 3]))


def test_every_prefix_is_asked_once_an_epoch(params):
    rng = np.random.default_rng(0)
    lengths = np.array([3, 1, 12, 0, 5, 2])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    events = rng.integers(0, 11, offsets[-1]).astype(np.int32)
    wanted = sorted(
        (tuple(events[max(a, p - 8) : p]), events[p])
        for a, b in itertools.pairwise(offsets)
        for p in range(a + 1, b)
    )
    recipe = Recipe(prefixes=True, samples=4)
    found = []
    for packed, targets, places in _prefix_batches(
        CONFIG, recipe, offsets, events, np.random.default_rng(1)
    ):
        for (row, column), target in zip(places, targets, strict=True):
            if row >= 0:
                own = packed.segments[row] == packed.segments[row, column]
                found.append((tuple(packed.items[row, own]), target))
                assert np.flatnonzero(own)[-1] == column
    assert sorted(found) == wanted
    # And the loss of a batch is that of its prefixes, each alone.
    logs = []
    for items, target in found[-4:]:
        state = last_states(SASRec(CONFIG), params, np.array([0, len(items)]), np.array(items))
        scores = state[0].astype(float) @ np.asarray(params["items"]["embedding"], float).T
        logs.append(scores[target] - np.log(np.exp(scores).sum()))
    count = int((places[:, 0] >= 0).sum())
    got = loss(SASRec(CONFIG), params, packed, targets, places=places)
    np.testing.assert_allclose(got, -np.mean(logs[-count:]), rtol=1e-4)


SMALL = {"dim": 32, "max_length": 6, "dropout": 0.1}


PREFIXES = Recipe(prefixes=True, samples=50, epochs=24, learning_rate=5e-3)


@pytest.mark.parametrize(
    ("recipe", "sizes"),
    [
        (Recipe(rows=25, epochs=60, learning_rate=5e-3), {}),
        (PREFIXES, {"newest_first": True, "low_pass": 3}),
    ],
    ids=["all positions", "BSARec"],
)
def test_learns_an_order_that_no_count_holds(recipe, sizes):
    histories, _ = walks()
    held, targets = walks(length=5, seed=1)  # as long as the inputs, so every position is known
    ranker = SASRecRanker(held, targets, recipe, **SMALL, **sizes)
    ranked = ranker.fit(*histories[:2], 23).rank(held, 10, remove_seen=False)
    # To whoever looks at the last item alone, both steps are equally likely: 0.5.
    assert full_ranking(ranked, targets, 23)["full/hr@1"] > 0.95
    everything = np.tile(np.arange(23), (len(targets), 1))
    best = ranker.score(held, everything).argmax(axis=1)
    assert best.tolist() == ranked[:, 0].tolist()


@pytest.mark.parametrize(
    ("prefixes", "low_pass"), [(False, 0), (True, 3)], ids=["all positions", "BSARec"]
)
def test_the_seed_alone_decides(prefixes, low_pass):
    histories, _ = walks(users=20)
    config = SASRecConfig(23, **SMALL, low_pass=low_pass)
    first, again, other = (
        fit(config, Recipe(prefixes=prefixes, epochs=2, seed=seed), *histories[:2])
        for seed in (0, 0, 1)
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    assert not jax.tree.all(jax.tree.map(np.array_equal, first, other))


def test_weight_decay_is_a_part_of_the_gradient():
    histories, _ = walks(users=20)
    config = SASRecConfig(23, **SMALL | {"max_length": 40})
    recipe = Recipe(rows=25, epochs=1, learning_rate=1e-3)  # one step
    start, _ = _start(SASRec(config), recipe)
    decayed = dataclasses.replace(recipe, weight_decay=1e-4)
    # Positions that no sequence reaches have no other, and Adam's first step is the sign of it.
    fitted = [fit(config, each, *histories[:2]) for each in (recipe, decayed)]
    before, after, shrunk = (
        np.asarray(params["positions"]["embedding"])[20:] for params in (start, *fitted)
    )
    np.testing.assert_array_equal(after, before)
    large = np.abs(before) > 5e-3
    moved = (before - shrunk)[large]
    np.testing.assert_allclose(moved, 1e-3 * np.sign(before[large]), atol=5e-5)


def test_the_best_epoch_is_kept_and_patience_ends_training():
    histories, _ = walks(users=20)
    seen = []

    def validate(params):
        seen.append(params)
        return [0.1, 0.3, 0.2, 0.1, 0.9][len(seen) - 1]

    best = fit(SASRecConfig(23, **SMALL), Recipe(epochs=9, patience=2), *histories[:2], validate)
    assert len(seen) == 4
    assert best is seen[1]


def test_a_loss_that_is_not_finite_is_an_error():
    histories, _ = walks(users=20)
    with pytest.raises(FloatingPointError, match="the loss is nan in epoch"):
        fit(SASRecConfig(23, **SMALL), Recipe(epochs=3, learning_rate=np.nan), *histories[:2])
