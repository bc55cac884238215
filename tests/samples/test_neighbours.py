"""What others bought near the newest items of a history, against loops over users and places."""

import gin
import numpy as np
import pandas as pd
import pytest
import seqio
import tensorflow as tf

from recalign.errors import UserError
from recalign.samples import neighbours
from recalign.samples.neighbours import ASKED, FADING, REACH, Neighbours
from recalign.samples.questions import Questions
from tests.samples.reading import LENGTHS, items_in, read
from tests.samples.shops import prepared


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """60 users who buy the same 25 items again and again."""
    folder = tmp_path_factory.mktemp("near")
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(60), rng.integers(3, 25, 60))
    items = rng.zipf(1.3, len(users)) % 25
    table = pd.DataFrame({"user_id": users, "item_id": items, "timestamp": np.arange(len(users))})
    table.to_csv(folder / "events.csv", index=False)
    options = ("--interactions", folder / "events.csv", "--vocab_size", 400)
    return prepared("nearshop", folder, "table", *map(str, options))


def weigh(first, then):
    """What two places of a sequence say of each other."""
    distance = then - first
    return (4 if distance > 0 else 1) * (REACH + 1 - abs(distance)) * (abs(distance) <= REACH)


def score(sequences, history, size):
    """Of each item, from the train sequences of some users."""
    counts = np.zeros((size, size))
    for sequence in sequences:
        for first, item in enumerate(sequence):
            for then, other in enumerate(sequence):
                if item != other:
                    counts[item, other] += weigh(first, then)
    found = np.zeros(size)
    for age, item in enumerate(history[::-1][:ASKED]):
        found += FADING**age / np.sqrt(counts[item].sum() + 1) * counts[item]
    found[history] = 0
    return found


def assert_strongest(found, scores, number):
    """The items may change places where they score alike."""
    assert len(found) == len(set(found)) == min(number, np.count_nonzero(scores))
    np.testing.assert_allclose(scores[found], np.sort(scores)[::-1][: len(found)], rtol=1e-5)


@pytest.fixture(scope="module")
def find(shop):
    """Six neighbours."""
    event, flag = tf.TensorSpec((None,), tf.int32), tf.TensorSpec((), tf.bool)
    return tf.function(Neighbours(shop, 6), input_signature=[event, event, flag])


def train_sequences(shop):
    offsets, events = shop.train()
    return np.split(events, offsets[1:-1])


def test_in_training_a_user_s_own_events_are_left_out(shop, find):
    sequences = train_sequences(shop)
    seen = []
    for user, sequence in enumerate(sequences):
        others = sequences[:user] + sequences[user + 1 :]
        for place in range(1, len(sequence), 5):
            found = find(sequence[:place], sequence, True).numpy()
            scores = score(others, sequence[:place], shop.num_items)
            assert_strongest(found, scores, 6)
            seen.append(not np.array_equal(found, find(sequence[:place], sequence, False)))
    assert np.mean(seen) > 0.2


class Events:
    """A domain of train sequences alone."""

    def __init__(self, sequences, size):
        self.sequences, self.num_items = sequences, size

    def train(self):
        offsets = np.cumsum([0, *map(len, self.sequences)])
        return offsets, np.concatenate(self.sequences)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kept", [1, 3, 32])
def test_a_user_is_told_what_he_would_be_if_he_had_bought_nothing_yet(kept, again, monkeypatch):
    """Not even which neighbours are kept, or which of two that are level, is up to his events."""
    monkeypatch.setattr(neighbours, "KEPT", kept)
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(60)[: rng.integers(3, 30)].astype(np.int32) for _ in range(40)]
    if again:  # one item, again and again, near all that he buys; few others have it
        sequences = sequences[:8]
        sequences = [np.insert(each, np.arange(0, len(each), 3), each[0]) for each in sequences]
    everyone = Neighbours(Events(sequences, 60), 6)
    for user, sequence in enumerate(sequences):
        others = Neighbours(Events(sequences[:user] + sequences[user + 1 :], 60), 6)
        for place in range(1, len(sequence), 6):
            found, expected = (
                asked(tf.constant(sequence[:place]), tf.constant(sequence), tf.constant(train))
                for asked, train in ((everyone, True), (others, False))
            )
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("block", [1, 50, 400])
def test_counting_a_part_of_the_catalogue_at_a_time_changes_nothing(shop, block, monkeypatch):
    whole = neighbours.count_neighbours(shop)
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    parts = neighbours.count_neighbours.__wrapped__(shop)
    for each, expected in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(each, expected)


def test_a_held_out_item_is_asked_for_by_all_train_events_and_by_no_other(shop, find):
    sequences, split = train_sequences(shop), shop.split("test")
    for history, target in zip(
        np.split(split.events, split.offsets[1:-1]), split.targets, strict=True
    ):
        found = find(history, np.append(history, target), False).numpy()
        assert_strongest(found, score(sequences, history, shop.num_items), 6)


@pytest.fixture
def named(shop):
    """The task, whose question names three of them."""
    gin.bind_parameter("retrieval.templates", ("{neighbours} near {history}",))
    gin.bind_parameter("retrieval.neighbours", 3)
    return shop


def test_a_question_names_them_before_the_history_which_gives_way(named, find):
    for lengths in (LENGTHS, {"inputs": 20, "targets": 64}):
        for sample in read("nearshop_retrieval", "test", lengths):
            before, after = sample["inputs"].split(" near ")
            seen = sample["seen"]
            assert items_in(before) == find(seen, seen, False).numpy()[:3].tolist()
            shown = items_in(after)
            assert shown
            assert shown == seen[-len(shown) :].tolist()
            assert sample["inputs_tokens"] <= lengths["inputs"]


def test_any_history_is_asked_as_the_test_split_asks(named):
    task = seqio.TaskRegistry.get("nearshop_retrieval")
    dataset = task.get_dataset(LENGTHS, "test", shuffle=False)
    for sample in list(dataset.as_numpy_iterator())[:5]:
        [inputs] = Questions(task, LENGTHS)([sample["seen"].tolist()]).inputs
        np.testing.assert_array_equal(inputs, sample["inputs"])


def test_what_cannot_be_named(named):
    with pytest.raises(UserError, match="its longest question"):
        next(read("nearshop_retrieval", "test", {"inputs": 5, "targets": 64}))
    gin.bind_parameter("retrieval.neighbours", 0)
    with pytest.raises(UserError, match="neighbours is 0, but must be at least 1"):
        next(read("nearshop_retrieval", "test"))


def test_so_many_neighbours_that_no_template_names(named):
    gin.bind_parameter("retrieval.templates", ("{history}",))
    with pytest.raises(UserError, match="neighbours is 3, but no template names any"):
        next(read("nearshop_retrieval", "test"))


def test_all_wordings_name_them_or_none(named):
    gin.bind_parameter("retrieval.templates", ("{neighbours} near {history}", "{history}"))
    with pytest.raises(UserError, match="but each must have"):
        next(read("nearshop_retrieval", "test"))
