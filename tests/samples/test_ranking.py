"""Ranking samples, against the stored lists and against what a negative may be."""

from collections import Counter, defaultdict

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign import prompts
from recalign.errors import UserError
from recalign.samples.draws import untouched_items
from tests.samples.reading import LENGTHS, fits, items_in, read
from tests.splits import history as history_of

LENGTHS = LENGTHS | {"inputs": 220}
QUESTION = prompts.RANKING[0].split("{candidates}")[0].split("{history}")[1]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_stored_list_is_shown_in_its_order(shop, split):
    expected, lists = shop.split(split), shop.candidates(split)
    samples = list(read("testshop_ranking", split, LENGTHS))
    assert len(samples) == len(expected)
    for e, sample in enumerate(samples):
        assert fits(prompts.RANKING[0], sample["inputs"])
        history, candidates = map(items_in, sample["inputs"].split(QUESTION.strip()))
        assert candidates == lists[e].tolist() == sample["candidates"].tolist()
        assert history
        assert history == history_of(expected, e)[-len(history) :].tolist()
        assert items_in(sample["targets"]) == [expected.targets[e]] == [sample["item"]]


def test_training_draws_negatives_that_the_train_record_does_not_hold(shop):
    train = shop.train()
    histories = np.split(train.events, train.offsets[1:-1])
    owners = defaultdict(list)  # several users may have begun alike
    for events in map(np.ndarray.tolist, histories):
        for p in range(1, len(events)):
            owners[tuple(events[:p]), events[p]].append(set(events))
    size, places = shop.candidates("test").shape[1], Counter()
    for sample in read("testshop_ranking", "train", lengths=None):
        candidates, target = sample["candidates"].tolist(), sample["item"]
        assert len(candidates) == len(set(candidates)) == size
        of_users = owners[tuple(sample["seen"].tolist()), target]
        assert any(set(candidates) & touched == {target} for touched in of_users)
        assert [i for i in items_in(sample["inputs"]) if i not in sample["seen"]].count(target) <= 1
        assert set(candidates) <= set(items_in(sample["inputs"]))
        places[candidates.index(target)] += 1
    assert len(places) > size * 0.9  # the place of the target says nothing
    assert max(places.values()) < 5 * sum(places.values()) / size


def test_negatives_are_new_every_epoch_and_a_seed_repeats_them(shop):
    def lists(seed, epochs):
        samples = read("testshop_ranking", "train", LENGTHS, seed, epochs=epochs)
        return [s["candidates"].tolist() for s in samples]

    both = lists(1, 2)
    half = len(both) // 2
    assert all(a != b for a, b in zip(both[:half], both[half:], strict=True))
    assert lists(1, 2) == both


def test_the_list_is_whole_and_the_history_gives_way(shop):
    size = shop.candidates("test").shape[1]
    trimmed = 0
    for sample in read("testshop_ranking", "test", LENGTHS):
        assert sample["inputs_tokens"] <= LENGTHS["inputs"]
        shown = len(items_in(sample["inputs"])) - size
        assert shown >= 1
        trimmed += shown < min(20, len(sample["seen"]))
    assert trimmed > 10


def test_lists_of_titles(shop):
    gin.bind_parameter("ranking.ranking.candidate_form", "id_title")
    sample = next(read("testshop_ranking", "test", lengths=None))
    titles = shop.items["title"]
    for index in sample["candidates"]:
        assert f"#{index:02d} {titles[index]};" in sample["inputs"]


def test_a_list_that_does_not_fit_is_named(shop):
    with pytest.raises(UserError, match="testshop_ranking: its longest question"):
        next(read("testshop_ranking", "train", {"inputs": 60, "targets": 8}))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 29), max_size=40),
    st.integers(1, 12),
    st.integers(0, 2**31 - 1),
    st.sampled_from([30, 31, 400]),
)
def test_untouched_items_are_distinct_and_untouched(touched, count, seed, num_items):
    touched_items = tf.constant(touched, tf.int32, [len(touched)])
    found = untouched_items(touched_items, num_items, count, tf.constant([seed, 0]))
    found = found.numpy().tolist()
    free = set(range(num_items)) - set(touched)
    assert set(found) <= free
    assert len(found) == len(set(found)) == min(count, len(free))


@pytest.mark.parametrize("num_items", [12, 60])  # all are ordered, or some are drawn
def test_untouched_items_are_uniform(num_items):
    draw = tf.function(lambda seed: untouched_items(tf.constant([3, 5, 5]), num_items, 3, seed))
    counts = np.zeros(num_items)
    for seed in range(1500):
        counts[draw(tf.constant([seed, 7])).numpy()] += 1
    assert counts[[3, 5]].tolist() == [0, 0]
    expected = 4500 / (num_items - 2)
    free = np.delete(counts, [3, 5])
    assert np.abs(free - expected).max() < 5 * np.sqrt(expected)


def test_a_second_registration_after_preparing_finds_what_is_new(rated):
    names = seqio.MixtureRegistry.names()
    assert "ratedshop_rating_only" in names
    tasks = {task.name for task in seqio.MixtureRegistry.get("ratedshop_aligned").tasks}
    assert tasks == {
        f"ratedshop_{k}" for k in ("retrieval", "ranking", "rating", "mim", "mlm", "bpr")
    }
