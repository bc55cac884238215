"""Sums of models: standardised by row, weighted by validation, exact over the catalogue."""

import numpy as np
import pytest

from recalign.evaluation import metrics, mixing
from recalign.evaluation.baselines.counting import ItemCooccurrence
from recalign.evaluation.mixing import choose_weights, evaluate_sum, scorer_of, standardise
from tests.evaluation.shops import domain, retrieval


@pytest.fixture
def shop():
    return domain(users=80, items=90, length=7)


def knows(shop, share, seed):
    """A model that scores the targets of some examples high, and the rest at random."""

    def score(examples, rows):
        rng = np.random.default_rng([seed, len(examples.events)])
        scores = rng.normal(size=(len(examples), shop.num_items)) * 5 + 3
        known = rng.random(len(examples)) < share
        scores[known, examples.targets[known]] += 40
        return scores[rows].astype(np.float32)

    return score


def test_scores_are_standardised_row_by_row():
    scores = np.random.default_rng(0).normal(5, 3, size=(4, 50)).astype(np.float32)
    scores[1] = 7  # says the same of all
    scores[2, 3] = -np.inf  # impossible
    found = standardise(scores)
    assert found.dtype == np.float32
    for row in (0, 3):
        np.testing.assert_allclose(
            found[row], (scores[row] - scores[row].mean()) / scores[row].std(), atol=1e-5
        )
    assert (found[1] == 0).all()
    others = np.delete(scores[2].astype(float), 3)
    np.testing.assert_allclose(
        np.delete(found[2], 3), (others - others.mean()) / others.std(), atol=1e-5
    )
    assert found[2, 3] == -np.inf


def test_the_sum_is_ranked_exactly(shop, monkeypatch):
    examples = retrieval(shop, "test")
    ranker = ItemCooccurrence().fit(*shop.train(), shop.num_items)
    scorers = [knows(shop, 0.3, 1), scorer_of(ranker, shop.num_items), knows(shop, 0.2, 2)]
    weights = [1.0, 0.5, 2.0]
    found, *alone = evaluate_sum(scorers, weights, examples)
    rows = slice(0, len(examples))
    everything = np.tile(np.arange(shop.num_items), (len(examples), 1))
    raw = [
        scorers[0](examples, rows),
        ranker.score(shop.split("test"), everything),
        scorers[2](examples, rows),
    ]
    total = sum(
        w * (s - s.mean(axis=1, keepdims=True)) / s.std(axis=1, keepdims=True)
        for w, s in zip(weights, np.asarray(raw, float), strict=True)
    )
    for evaluated, scores in zip((found, *alone), (total, *raw[1:]), strict=True):
        left = np.array(scores, float)
        for protocol in ("full", "full_unseen"):
            lists = np.argsort(-left, axis=1, kind="stable")[:, :20].astype(np.int32)
            expected = metrics.full_ranking(lists, examples.targets, shop.num_items, protocol)
            assert expected.items() < evaluated.metrics.items()
            for row, history in zip(
                left, np.split(examples.events, examples.offsets[1:-1]), strict=True
            ):
                row[history] = -np.inf
    assert found.outcomes["full"].users.tolist() == shop.split("test").users.tolist()
    monkeypatch.setattr(mixing, "CHUNK_ENTRIES", 7 * shop.num_items)
    again = evaluate_sum(scorers, weights, examples)
    assert [each.metrics for each in again] == [each.metrics for each in (found, *alone)]


def test_weights_are_those_that_validation_likes_best(shop):
    held = retrieval(shop, "validation")
    scorers = [knows(shop, 0.3, 1), knows(shop, 0.3, 2)]
    weights = choose_weights(scorers, held)
    assert weights[0] == 1
    found = {
        weight: evaluate_sum(scorers, [1.0, weight], held)[0].metrics["full_unseen/ndcg@10"]
        for weight in mixing.WEIGHTS
    }
    assert found[weights[1]] == pytest.approx(max(found.values()), abs=1e-6)
    assert found[weights[1]] > found[0.0] + 0.1  # who has both has more


def test_what_knows_nothing_gets_no_weight(shop):
    held = retrieval(shop, "validation")
    reverse = knows(shop, 1.0, 1)
    scorers = [knows(shop, 0.9, 1), knows(shop, 0.4, 2), lambda *a: -reverse(*a)]
    assert choose_weights(scorers, held)[2] == 0.0
    assert choose_weights(scorers, held) == choose_weights(scorers, held)


@pytest.mark.parametrize("bound", ["JUDGED", "HELD_ENTRIES"])
def test_the_first_examples_decide(shop, monkeypatch, bound):
    """One model is right on the first twenty and wrong on the sixty others, one the reverse."""
    held = retrieval(shop, "validation")

    def right_on_first(sign):
        def score(examples, rows):
            scores = np.zeros((len(examples), shop.num_items), np.float32)
            right = np.where(np.arange(len(examples)) < 20, sign, -sign)
            np.put_along_axis(scores, examples.targets[:, None], right[:, None], axis=1)
            return scores[rows]

        return score

    scorers = [knows(shop, 0.0, 1), right_on_first(1), right_on_first(-1)]
    _, early, late = choose_weights(scorers, held)
    assert early < late
    entries = {"JUDGED": 1, "HELD_ENTRIES": shop.num_items * (len(scorers) + 1)}[bound]
    monkeypatch.setattr(mixing, bound, 20 * entries)
    _, early, late = choose_weights(scorers, held)
    assert early > late
