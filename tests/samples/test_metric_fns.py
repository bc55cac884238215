"""A SeqIO evaluator reports our metrics, from nothing but the tasks."""

import numpy as np
import pytest
import seqio

from recalign.evaluation import metrics
from recalign.samples import metric_fns
from recalign.samples.items import item_texts
from recalign.samples.registry import domain_of

LENGTHS = {"inputs": 64, "targets": 8}
EMPTY, NOT_AN_ITEM = metrics.EMPTY, metric_fns.NOT_AN_ITEM


@pytest.fixture
def texts(shop):
    return item_texts("testshop", domain_of(seqio.get_mixture_or_task("testshop_retrieval"))[1])


def judge(texts, task, ranked):
    """What SeqIO says of a model that writes these items, best first, int[m, K] or int[m]."""
    rows = zip(texts.target_tokens.tolist(), texts.target_lengths, strict=True)
    tokens = [row[:length] for row, length in rows]
    written = {**dict(enumerate(tokens)), EMPTY: [], NOT_AN_ITEM: tokens[0] + tokens[1]}

    def sequence(item):
        row = [*written[item], 1] if item != EMPTY else []
        return row + [0] * (LENGTHS["targets"] - len(row))

    def predict(dataset):
        rows = ranked[:, ::-1] if ranked.ndim == 2 else ranked  # the best comes last
        beams = [[sequence(i) for i in row] if rows.ndim == 2 else sequence(row) for row in rows]
        return [(int(e), beams[int(e)]) for e, _ in dataset.as_numpy_iterator()]

    evaluator = seqio.Evaluator(
        task, seqio.EncDecFeatureConverter(pack=False), "test", sequence_length=LENGTHS
    )
    found, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict)
    return found.result()


@pytest.fixture
def examples(shop):
    task = seqio.get_mixture_or_task("testshop_retrieval")
    dataset = task.get_dataset(LENGTHS, "test", shuffle=False)
    return list(dataset.as_numpy_iterator())


def test_beams_are_judged_like_any_ranking(examples, texts, shop):
    rng = np.random.default_rng(0)
    ranked = np.array([rng.permutation(shop.num_items)[:12] for _ in examples])
    ranked[::3, 2] = NOT_AN_ITEM
    ranked[1::3, 4] = ranked[1::3, 1]
    ranked[2::3, -2:] = EMPTY
    ranked[::4, 0] = [example["item"] for example in examples[::4]]
    found = judge(texts, "testshop_retrieval", ranked)["testshop_retrieval"]
    targets = np.array([example["item"] for example in examples])
    expected = metrics.full_ranking(ranked, targets, shop.num_items)
    assert expected["full/hr@1"] > 0 < expected["full/invalid_rate"]
    assert {k: v for k, v in found.items() if k.startswith("full/")} == pytest.approx(expected)


def test_unseen_has_the_cut_offs_that_the_shortest_list_reaches(examples, texts, shop):
    """Three of twelve items of one list are in its history: nine are left, too few for @10."""
    ranked = np.array([list(unseen(example, shop.num_items)[:12]) for example in examples])
    longest = max(range(len(examples)), key=lambda e: len(set(examples[e]["seen"])))
    history = list(dict.fromkeys(examples[longest]["seen"]))[:3]
    ranked[longest, 1 : 1 + len(history)] = history
    found = judge(texts, "testshop_retrieval", ranked)["testshop_retrieval"]
    cut_offs = {name for name in found if name.startswith("full_unseen/hr")}
    assert cut_offs == {"full_unseen/hr@1", "full_unseen/hr@5"}
    assert "full/hr@10" in found
    closed = ranked.copy()
    closed[longest] = [*np.delete(ranked[longest], range(1, 1 + len(history))), *[EMPTY] * 3]
    targets = np.array([example["item"] for example in examples])
    expected = metrics.full_ranking(closed, targets, shop.num_items, "full_unseen")
    assert found["full_unseen/hr@5"] == pytest.approx(expected["full_unseen/hr@5"])


def unseen(example, num_items):
    """Items that are not in the history, the target (if it is one of them) somewhere among them."""
    return np.setdiff1d(np.arange(num_items), example["seen"])


def test_one_answer_is_a_list_of_one(examples, texts):
    targets = np.array([example["item"] for example in examples])
    found = judge(texts, "testshop_retrieval", targets)["testshop_retrieval"]
    assert found["full/hr@1"] == 1
    assert "full/hr@5" not in found


def test_of_a_mixture_the_tasks_with_metrics_are_judged(examples, texts):
    ranked = np.zeros((len(examples), 5), int)
    assert "testshop_retrieval" in judge(texts, "testshop_aligned", ranked)
