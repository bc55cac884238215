"""Our tasks among SeqIO's own parts: converters, evaluators and tasks that know nothing of ours."""

import itertools
from collections import Counter

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf

from recalign.samples import inputs, judged
from recalign.samples.answers import FeatureConverter, mark_given
from recalign.samples.items import item_texts
from tests.samples.reading import items_in

LENGTHS = {"inputs": 220, "targets": 64}
FOREIGN = "an answer of another task"


@pytest.fixture(params=[0, 1], ids=["whole", "prefix"])
def prefix(request, shop):
    """How many items of the history an answer begins with."""
    for kind in ("retrieval", "ranking", "bpr"):
        gin.bind_parameter(f"{kind}.{kind}.answer_prefix", request.param)
    return request.param


@pytest.fixture(scope="module")
def foreign(shop):
    """A task of plain SeqIO, and a mixture of it with one of ours."""
    retrieval = seqio.TaskRegistry.get("testshop_retrieval")
    seqio.TaskRegistry.add(
        "foreign",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensors(
                {"inputs": "a question of another task", "targets": FOREIGN}
            ),
            splits=["train"],
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features=retrieval.output_features,
    )
    yield seqio.MixtureRegistry.add(
        "with_foreign", ["foreign", "testshop_retrieval", "testshop_mim"], default_rate=1
    ).name
    seqio.MixtureRegistry.remove("with_foreign")
    seqio.TaskRegistry.remove("foreign")


def vocabulary():
    return seqio.TaskRegistry.get("testshop_retrieval").output_features["targets"].vocabulary


def samples_in(row):
    """What is asked, what is answered, and the weights of it, of each sample in a row."""
    sides = {}
    for side in ("encoder_input", "decoder_target"):
        tokens = row[f"{side}_tokens"]
        sides[side] = row.get(f"{side.split('_')[0]}_segment_ids", (tokens != 0).astype(int))
    for s in range(1, sides["decoder_target"].max() + 1):
        answer = row["decoder_target_tokens"][sides["decoder_target"] == s]
        yield (
            vocabulary().decode(row["encoder_input_tokens"][sides["encoder_input"] == s].tolist()),
            vocabulary().decode(answer.tolist()),
            row["decoder_loss_weights"][sides["decoder_target"] == s].tolist(),
        )


@pytest.mark.parametrize(
    ("name", "pack"),
    [("testshop_retrieval", False), ("testshop_aligned", True), ("with_foreign", True)],
)
def test_seqios_converter_takes_our_tasks(prefix, foreign, name, pack):
    assert set(seqio.get_mixture_or_task(name).output_features) == {"inputs", "targets"}
    converter = seqio.EncDecFeatureConverter(pack=pack)
    rows = seqio.get_dataset(name, LENGTHS, converter, num_epochs=None, seed=0).take(30)
    items, texts = [], []
    for row in rows.as_numpy_iterator():
        assert all((value >= 0).all() for value in row.values())
        for _, text, weights in samples_in(row):
            assert set(weights) == {1}
            texts.append(text)
            items.append(len(items_in(text)))
    # The whole answer, what would be given included.
    assert items.count(1 + prefix) > len(items) / 4
    assert (FOREIGN in texts) == (name == foreign)


def test_given_tokens_weigh_nothing_in_a_mixture_with_a_foreign_task(prefix, foreign):
    kinds = Counter()
    for batch in itertools.islice(inputs.train_batches(foreign, LENGTHS, 4, seed=0), 3):
        assert all((value >= 0).all() for value in batch.values())
        for row in range(4):
            for asked, text, weights in samples_in({k: v[row] for k, v in batch.items()}):
                kind = "mim" if "extra_id" in asked else "retrieval"
                kinds[kind := "foreign" if text == FOREIGN else kind] += 1
                # An id of the toy shop is one piece.
                given = prefix if kind == "retrieval" else 0
                assert weights == [0] * given + [1] * (len(weights) - given)
    assert len(kinds) == 3
    assert min(kinds.values()) > 3


def test_a_foreign_task_is_not_judged(foreign):
    assert [found.task for found in judged.examples(foreign, LENGTHS, "test", num_examples=1)] == [
        "testshop_retrieval"
    ]


def test_a_task_and_a_mixture_tell_the_same_of_what_is_given(prefix):
    lengths = mark_given(LENGTHS)
    [alone, marked, mixed] = (
        FeatureConverter(pack=True)(
            seqio.get_mixture_or_task(name).get_dataset(
                asked, "train", shuffle=False, seed=0, num_epochs=1
            ),
            asked,
        ).take(10)
        for name, asked in (
            ("testshop_retrieval", LENGTHS),
            ("testshop_retrieval", lengths),
            ("testshop_retrieval_only", lengths),
        )
    )
    weights = []
    for rows in zip(alone, marked, mixed, strict=True):
        for other in rows[1:]:
            assert rows[0].keys() == other.keys()
            for name in other:
                np.testing.assert_array_equal(rows[0][name], other[name])
        weights += (
            rows[0]["decoder_loss_weights"][rows[0]["decoder_segment_ids"] > 0].numpy().tolist()
        )
    assert (0 in weights) == bool(prefix)


def test_seqios_evaluator_takes_our_tasks(prefix, shop):
    """A model that knows nothing of ours writes whole answers, what would be given included."""
    name = "testshop_retrieval"
    evaluator = seqio.Evaluator(
        name, seqio.EncDecFeatureConverter(pack=False), "test", sequence_length=LENGTHS
    )
    examples = list(evaluator.cached_task_datasets[name].as_numpy_iterator())
    texts = item_texts("testshop", str(shop.path.parent))
    one = texts.target_tokens[:, 0].tolist()

    def predict(dataset):
        rows = dict(dataset.as_numpy_iterator())
        answers = {}
        for e, row in rows.items():
            # Every other one right, with the item in the place of what is to be found.
            begin = [one[item] for item in examples[e]["seen"][-1:]] if prefix else []
            item = examples[e]["item"] if e % 2 else (examples[e]["item"] + 1) % len(one)
            answers[e] = [*begin, one[item], 1]
            right = answers[e] == row["decoder_target_tokens"][: len(answers[e])].tolist()
            assert right == bool(e % 2)
        return [(int(e), answer) for e, answer in answers.items()]

    found, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict)
    metrics = found.result()[name]
    assert metrics["full/invalid_rate"] == 0
    assert metrics["full/hr@1"] == pytest.approx(0.5, abs=0.01)
