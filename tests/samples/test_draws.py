"""Windows, masks and spans: what may be drawn, and how often."""

import itertools
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from recalign.samples.draws import random_mask, random_window
from recalign.samples.items import SENTINELS
from recalign.samples.mlm import span_corruption

VOCAB = 1000


def seeds(number):
    return [tf.constant([seed, 11]) for seed in range(number)]


@pytest.mark.parametrize(("size", "windows"), [(3, 5), (7, 1), (9, 1), (1, 7)])
def test_every_window_is_equally_likely(size, windows):
    events = tf.range(10, 17)
    draw = tf.function(lambda seed: random_window(events, size, seed))
    found = Counter(tuple(draw(seed).numpy().tolist()) for seed in seeds(400))
    expected = [tuple(range(s, min(s + size, 17))) for s in range(10, 10 + windows)]
    assert sorted(found) == expected
    assert min(found.values()) > 400 / windows - 5 * np.sqrt(400 / windows)


def masks(items, length, rate, number=400, cost=2):
    draw = tf.function(
        lambda seed: random_mask(tf.fill([items], cost), length, rate, seed), reduce_retracing=True
    )
    return np.array([draw(seed).numpy() for seed in seeds(number)])


def test_each_item_is_masked_at_the_rate():
    share = masks(12, None, 0.3).mean(axis=0)
    assert np.abs(share - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 400)


@pytest.mark.parametrize("rate", [0.0, 0.01])
def test_at_least_one_is_masked_whichever(rate):
    found = masks(4, None, rate)
    assert (found.sum(axis=1) >= 1).all()
    assert found.sum(axis=0).min() > 100 - 5 * 10


def test_no_more_than_the_targets_have_room_for_and_the_oldest_stay():
    everything = masks(10, 9, 1.0, 3)  # of two tokens each; EOS is the ninth
    assert everything.tolist() == [[True] * 4 + [False] * 6] * 3
    assert masks(10, 8, 1.0, 1).sum() == 3
    assert masks(10, 3, 0.2).sum(axis=1).tolist() == [1] * 400


def test_no_more_than_there_are_sentinels():
    assert masks(SENTINELS + 20, None, 1.0, 1).sum() == SENTINELS


@pytest.mark.parametrize(
    ("tokens", "density", "mean_span"),
    [(40, 0.15, 3.0), (40, 0.5, 2.0), (2, 0.15, 3.0), (9, 0.9, 1.0), (600, 0.5, 1.5)],
)
def test_spans_are_as_many_and_as_long_as_asked_and_can_be_filled_in(tokens, density, mean_span):
    given = tf.range(10, 10 + tokens)
    draw = tf.function(lambda a, b: span_corruption(given, VOCAB, density, mean_span, (a, b)))
    noise = min(max(round(tokens * density), 1), tokens - 1)
    spans = min(max(round(noise / mean_span), 1), tokens - noise, SENTINELS)
    firsts = Counter()
    for seed in seeds(60):
        inputs, targets = (side.numpy().tolist() for side in draw(seed, seed + 1))
        marks = [VOCAB - 1 - i for i in range(spans)]
        assert [t for t in inputs if t in marks] == [t for t in targets if t in marks] == marks
        assert len(targets) == noise + spans
        assert len(inputs) == tokens - noise + spans
        assert inputs[0] == 10  # what begins is kept, and what ends is not
        assert targets[-1] == 9 + tokens
        filled = dict(zip(marks, split(targets, marks), strict=True))
        restored = [part for t in inputs for part in filled.get(t, [t])]
        assert restored == given.numpy().tolist()
        firsts[len(filled[marks[0]])] += 1
    # Uniform over all lengths that add up: the first span may have any that leaves one to each.
    if spans > 1:
        assert len(firsts) > min(noise - spans, 3)


def test_lengths_of_what_is_kept_and_of_what_is_hidden_are_drawn_apart():
    """Of six tokens three are hidden in two spans, 1 + 2 or 2 + 1; so is what is kept."""
    draw = tf.function(lambda a, b: span_corruption(tf.range(10, 16), VOCAB, 0.5, 1.5, (a, b)))
    found = Counter(tuple(draw(seed, seed + 1)[0].numpy().tolist()) for seed in seeds(200))
    a, b = VOCAB - 1, VOCAB - 2
    assert found.keys() == {(10, a, *then, b) for then in ((12, 13), (13, 14))} | {
        (10, 11, a, then, b) for then in (13, 14)
    }
    assert min(found.values()) > 50 - 5 * np.sqrt(50)


def split(targets, marks):
    """What follows each mark."""
    bounds = [targets.index(mark) for mark in marks] + [len(targets)]
    return [targets[a + 1 : b] for a, b in itertools.pairwise(bounds)]


def test_of_a_single_token_nothing_is_corrupted():
    inputs, targets = span_corruption(tf.constant([7]), VOCAB, 0.5, 3.0, seeds(2))
    assert inputs.numpy().tolist() == [7]
    assert targets.numpy().tolist() == []
