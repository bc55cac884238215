"""Answers that go on from the history: what they hold, what of it is given, and what weighs."""

import re
from collections import Counter

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf
from click.testing import CliRunner

from recalign.cli import recalign
from recalign.errors import UserError
from recalign.samples import inputs, judged
from recalign.samples.answers import FeatureConverter, mark_given
from recalign.samples.items import item_texts
from recalign.samples.questions import Questions
from tests.samples.reading import items_in

LENGTHS = {"inputs": 220, "targets": 64}


@pytest.fixture
def configured():
    """Binds options of tasks."""

    def bind(**options):
        for name, value in options.items():
            gin.bind_parameter(name.replace("__", "."), value)

    return bind


def dataset(kind, split, lengths=LENGTHS, **options):
    task = seqio.TaskRegistry.get(f"testshop_{kind}")
    return task.get_dataset(lengths, split, shuffle=False, seed=0, **options)


def texts_of(shop):
    return item_texts("testshop", str(shop.path.parent))


@pytest.mark.parametrize("form", ["id", "title", "id_title"])
@pytest.mark.parametrize("kind", ["retrieval", "ranking"])
def test_an_answer_is_the_newest_items_and_then_the_target(shop, configured, kind, form):
    configured(**{f"{kind}.{kind}.answer_prefix": 2, "item_texts.target_form": form})
    texts = texts_of(shop)
    vocabulary = seqio.TaskRegistry.get(f"testshop_{kind}").output_features["targets"].vocabulary
    for sample in dataset(kind, "test").take(40).as_numpy_iterator():
        given = sample["given"].tolist()
        words = texts.target[[*sample["seen"][-2:], sample["item"]]]
        assert sample["targets"].tolist() == [*vocabulary.encode(" ".join(words)), 1]
        assert given == vocabulary.encode(" ".join(words[:-1]))


def test_bpr_begins_with_what_was_bought_before_the_positive(shop, configured):
    configured(**{"bpr.bpr.answer_prefix": 1})
    texts, train = texts_of(shop), shop.train()
    pairs = {
        (a, b)
        for events in np.split(train.events, train.offsets[1:-1])
        for a, b in zip(events[:-1].tolist(), events[1:].tolist(), strict=True)
    }
    item_of = {
        tuple(row[row > 0][:-1]): i
        for i, row in enumerate(texts.target_tokens.tolist())
        for row in [np.array(row)]
    }
    for sample in dataset("bpr", "train").take(100).as_numpy_iterator():
        given = tuple(sample["given"])
        positive = tuple(sample["targets"][len(given) : -1])
        assert (item_of[given], item_of[positive]) in pairs


def test_nothing_is_given_unless_asked_for(shop):
    for kind in ("retrieval", "ranking", "mim", "mlm", "bpr"):
        for sample in dataset(kind, "train", mark_given(LENGTHS)).take(20).as_numpy_iterator():
            assert (sample["targets"] > 0).all()
            assert not len(sample.get("given", ()))


def test_what_is_given_leaves_room_for_the_longest_item(shop, configured):
    configured(**{"retrieval.retrieval.answer_prefix": 20, "item_texts.target_form": "title"})
    texts = texts_of(shop)
    # Two items of the longest and EOS just fit.
    lengths = LENGTHS | {"targets": 2 * int(texts.target_lengths.max()) + 1}
    room = lengths["targets"] - 1 - texts.target_lengths.max()
    cut = 0
    for sample in dataset("retrieval", "test", lengths).as_numpy_iterator():
        counts = texts.target_lengths[sample["seen"]]
        fit = int((np.cumsum(counts[::-1]) <= room).sum())
        assert fit >= 1
        expected = [
            token
            for item in sample["seen"][len(sample["seen"]) - min(fit, 20) :]
            for token in texts.target_tokens[item].tolist()
            if token > 1
        ]
        assert sample["given"].tolist() == expected
        assert sample["targets"][-1] == 1
        assert len(sample["targets"]) <= lengths["targets"]
        cut += fit < len(counts)
    assert cut > 10


@pytest.mark.parametrize(
    ("options", "targets", "message"),
    [
        (
            {"answer_prefix": -1},
            64,
            "testshop_retrieval: answer_prefix is -1, but must be at least",
        ),
        ({"answer_prefix": 1}, 2, "answer_prefix is 1, but TASK_FEATURE_LENGTHS.*no room for two"),
        ({"next_items": 0}, 64, "next_items is 0, but must be at least 1"),
        ({"next_items": 2}, 64, "next_items is 2, but .* set item_texts.add_eos to False"),
        ({"cuts_per_sequence": 0}, 64, "cuts_per_sequence is 0, but must be at least 1"),
    ],
)
def test_what_cannot_be_is_named(shop, configured, options, targets, message):
    configured(**{f"retrieval.retrieval.{name}": value for name, value in options.items()})
    with pytest.raises(UserError, match=message):
        dataset("retrieval", "train", LENGTHS | {"targets": targets})


def decoded(sample):
    """The items of what is given, and of what is to be found."""
    vocabulary = seqio.TaskRegistry.get("testshop_retrieval").output_features["targets"].vocabulary
    whole = items_in(vocabulary.decode(sample["targets"].tolist()))
    given = items_in(vocabulary.decode(sample["given"].tolist()))
    assert whole[: len(given)] == given
    return given, whole[len(given) :]


def sequences(shop):
    train = shop.train()
    return [tuple(events.tolist()) for events in np.split(train.events, train.offsets[1:-1])]


@pytest.mark.parametrize("targets", [64, 4])
def test_an_answer_goes_on_with_the_items_after_the_next(shop, configured, targets):
    several = {"answer_prefix": 1, "next_items": 5}
    configured(**{f"retrieval.retrieval.{name}": value for name, value in several.items()})
    configured(**{"item_texts.add_eos": False})
    lengths = LENGTHS | {"targets": targets}
    expected = sorted(
        (events[place - 1 : place], events[place : place + min(5, targets - 1)])
        for events in sequences(shop)
        for place in range(1, len(events))
    )
    found = [
        tuple(map(tuple, decoded(sample)))
        for sample in dataset("retrieval", "train", lengths).as_numpy_iterator()
    ]
    assert sorted(set(found)) == sorted(set(expected))
    assert max(len(answer) for _, answer in found) == min(5, targets - 1)
    for sample in dataset("retrieval", "test", lengths).as_numpy_iterator():
        assert decoded(sample) == ([sample["seen"][-1]], [sample["item"]])


def test_a_sequence_is_cut_anew_every_epoch(shop, configured):
    options = {"answer_prefix": 1, "next_items": 50, "cuts_per_sequence": 3}
    configured(**{f"retrieval.retrieval.{name}": value for name, value in options.items()})
    configured(**{"item_texts.add_eos": False})

    def cuts(seed, num_epochs=2):
        task = seqio.TaskRegistry.get("testshop_retrieval")
        options = {"shuffle": True, "seed": seed, "num_epochs": num_epochs}
        found = task.get_dataset(LENGTHS, "train", **options).as_numpy_iterator()
        return [(tuple(sample["seen"]), tuple(decoded(sample)[1])) for sample in found]

    train = [events for events in sequences(shop) if len(events) > 1]
    found = cuts(0)
    assert Counter(history + answer for history, answer in found) == Counter(train * 6)
    assert all(history and answer for history, answer in found)
    half = len(found) // 2
    assert Counter(found[:half]) != Counter(found[half:])
    assert found == cuts(0) != cuts(1)
    # Every place of a sequence is as likely as another.
    places = [
        (len(history) - 1) / (len(history + answer) - 2)
        for history, answer in found
        if len(history + answer) > 2
    ]
    assert abs(np.mean(places) - 0.5) < 0.05
    assert {0, 1} < set(places)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_held_out_item_is_asked_for_once_however_sequences_are_cut(shop, configured, split):
    def asked():
        found = dataset("retrieval", split, LENGTHS).as_numpy_iterator()
        return [(tuple(sample["seen"]), sample["item"]) for sample in found]

    expected = asked()
    assert len(expected) == shop.num_examples(split)
    for number in (1, 3):
        configured(**{"retrieval.retrieval.cuts_per_sequence": number})
        assert asked() == expected


@pytest.mark.parametrize("pack", [False, True])
def test_given_tokens_weigh_nothing_and_all_else_is_as_seqio_has_it(shop, configured, pack):
    configured(**{"retrieval.retrieval.answer_prefix": 2, "item_texts.target_form": "id_title"})
    drawn = [
        {"given": np.zeros(0, np.int32), **sample}
        for pair in zip(*(dataset(kind, "train") for kind in ("retrieval", "mim")), strict=False)
        for sample in pair
    ][:80]
    features = ("inputs", "targets", "given")
    samples = tf.data.Dataset.from_generator(
        lambda: ({name: sample[name] for name in features} for sample in drawn),
        output_signature={name: tf.TensorSpec([None], tf.int32) for name in features},
    )
    ours, seqios = (
        list(converter(pack=pack)(samples, LENGTHS).as_numpy_iterator())
        for converter in (FeatureConverter, seqio.EncDecFeatureConverter)
    )
    answers = {}  # the number of given tokens by the whole answer
    for sample in drawn:
        answers[tuple(sample["targets"].numpy())] = len(sample["given"])
    assert len(set(answers.values())) > 3
    given = 0
    for row, plain in zip(ours, seqios, strict=True):
        assert row.keys() == plain.keys()
        for name in row.keys() - {"decoder_loss_weights"}:
            np.testing.assert_array_equal(row[name], plain[name], err_msg=name)
            assert row[name].dtype == np.int32
        targets, weights = row["decoder_target_tokens"], row["decoder_loss_weights"]
        segments = row.get("decoder_segment_ids", (targets > 0).astype(int))
        for segment in range(1, segments.max() + 1):
            number = answers[tuple(targets[segments == segment])]
            assert weights[segments == segment].tolist() == [
                int(place >= number) for place in range((segments == segment).sum())
            ]
            given += number
        assert not weights[segments == 0].any()
    assert given > 100


def test_samples_without_the_feature_are_converted_too():
    samples = tf.data.Dataset.from_tensors({"inputs": [5, 1], "targets": [6, 1]})
    [row] = FeatureConverter(pack=False)(samples, LENGTHS).as_numpy_iterator()
    assert row["decoder_loss_weights"].sum() == 2


@pytest.mark.parametrize("form", ["id", "title"])
def test_a_question_is_asked_with_what_its_answer_begins_with(shop, configured, form):
    configured(**{"retrieval.retrieval.answer_prefix": 3, "item_texts.target_form": form})
    [examples] = judged.examples("testshop_retrieval", LENGTHS, "test", num_examples=30)
    tokens = texts_of(shop).target_tokens
    histories = np.split(examples.events, examples.offsets[1:-1])
    for history, given in zip(histories, examples.given, strict=True):
        rows = tokens[history[-3:]]
        assert given.tolist() == rows[rows > 1].tolist()
    assert (len({len(given) for given in examples.given}) > 1) == (form == "title")
    asked = Questions(seqio.TaskRegistry.get("testshop_retrieval"), LENGTHS)(histories)
    for one, other in zip(asked.inputs, examples.inputs, strict=True):
        np.testing.assert_array_equal(one, other)
    [width] = {len(given) for given in asked.given}
    for one, other in zip(asked.given, examples.given, strict=True):
        assert one.tolist() == [*other, *[0] * (width - len(other))]


def test_training_is_fed_weights(shop, configured):
    configured(**{"retrieval.retrieval.answer_prefix": 1})
    batch = next(inputs.train_batches("testshop_retrieval", LENGTHS, 4, seed=0))
    targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    # One piece is given, one is to be found, and EOS follows.
    assert targets[0, :6].tolist()[2] == 1
    assert weights[0, :6].tolist() == [0, 1, 1, 0, 1, 1]


@pytest.mark.usefixtures("shop")
def test_recalign_tasks_shows_what_is_given():
    command = ["tasks", "testshop_retrieval", "--examples", "2", "--split", "test"]
    option = "--gin.retrieval.retrieval.answer_prefix=1"
    shown = CliRunner().invoke(recalign, [*command, option], catch_exceptions=False)
    assert len(re.findall(r"of which (#\d\d) is given\): \1 #\d\d\n", shown.output)) == 2


def test_ids_may_stand_without_end_marks_which_titles_need(shop, configured):
    configured(**{"item_texts.history_form": "id", "item_texts.end_mark": ""})
    vocabulary = seqio.TaskRegistry.get("testshop_retrieval").output_features["inputs"].vocabulary
    texts = texts_of(shop)
    for kind in ("retrieval", "mim"):
        for sample in dataset(kind, "train").take(20).as_numpy_iterator():
            text = vocabulary.decode(sample["inputs"].tolist())
            assert ";" not in text
            if kind == "retrieval":
                assert " ".join(texts.ids[sample["seen"][-20:]]) in text
    gin.bind_parameter("item_texts.history_form", "id_title")
    with pytest.raises(UserError, match="items with titles need one"):
        texts_of(shop)
