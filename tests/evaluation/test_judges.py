"""Ratings read from answers, and expected from the probabilities of what may be written."""

import dataclasses
import math

import numpy as np
import pytest

from recalign.domains.assemble import assemble
from recalign.domains.readers import toyshop
from recalign.evaluation.baselines.rows import beside
from recalign.evaluation.examples import RatingExamples
from recalign.evaluation.judges import RatingJudge
from recalign.evaluation.metrics import rating_in

TEXTS = {2: "4", 3: ".5", 4: "1", 5: "five", 6: "7", 7: "nan"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("4.5", 4.5),
        (" 4 ", 4),
        ("", math.nan),
        ("four", math.nan),
        ("4 stars", math.nan),
        ("6", math.nan),  # off the scale
        ("-1", math.nan),
        ("nan", math.nan),
        ("inf", math.nan),
    ],
)
def test_an_answer_is_a_number_on_the_scale_or_none(text, value):
    np.testing.assert_equal(rating_in(text, 1.0, 5.0), value)


class Answers:
    """Stands in for a network: it generates and scores what it is told to."""

    def __init__(self, tokens, scores):
        self.tokens, self.scores = tokens, scores

    def generate(self, params, inputs, length):
        return self.tokens[:, :length]

    def score(self, params, inputs, items):
        return np.take_along_axis(self.scores, items, axis=1)


@pytest.fixture
def examples():
    domain = assemble(toyshop.generate(users=30, items=40), "shop")
    ratings = np.random.default_rng(0).choice([1.0, 4.0, 4.5], len(domain.events))
    domain = dataclasses.replace(
        domain, ratings=ratings.astype(np.float32), statistics={"ratings": {"mean": 3.0}}
    )
    split = domain.rating_split("test")
    return RatingExamples(
        task="shop_rating",
        split="test",
        domain=domain,
        inputs=[np.array([5, 1])] * 5,
        users=split.users[:5],
        items=split.items[:5],
        ratings=np.array([4, 4.5, 1, 4, 4.5], np.float32),
        values=np.array([1, 4, 4.5]),
        stars=[np.array(t) for t in ([4, 1], [2, 1], [2, 3, 1])],
    )


def judge(examples):
    answers = np.array(
        [[2, 1, 0, 0, 0], [2, 3, 1, 0, 0], [6, 1, 0, 0, 0], [2] * 5, [5, 1, 0, 0, 0]]
    )
    probabilities = np.array([[1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 2]]) + 1e-30
    return RatingJudge(Answers(answers, np.log(probabilities)), decode)


def decode(tokens):
    return "".join(TEXTS[t] for t in tokens if t > 1)


def test_what_is_no_rating_is_judged_as_the_mean_of_train(examples):
    found = judge(examples).evaluate(None, examples).metrics
    # 4 and 4.5 are right; 7 is off the scale, 44444 does not end, "five" is no number.
    errors = np.array([0, 0, 3 - 1, 3 - 4, 3 - 4.5])
    assert found["rating/parse_rate"] == pytest.approx(2 / 5)
    assert found["rating/rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert found["rating/mae"] == pytest.approx(np.mean(np.abs(errors)))
    errors = np.array([2.5 - 4, 0, 0, 0, 3.5 - 4.5])
    assert found["rating_expected/rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert found["rating_expected/mae"] == pytest.approx(np.mean(np.abs(errors)))


def test_predictions_tell_what_was_known_and_what_was_answered(examples):
    lines = list(judge(examples).predictions(None, examples))
    assert [line["answer"] for line in lines] == ["4", "4.5", "7", "44444", "five"]
    assert [line["written"] for line in lines] == [4.0, 4.5, None, None, None]
    assert [line["expected"] for line in lines] == pytest.approx([2.5, 4.5, 1, 4, 3.5])
    for line in lines:
        assert line["item"] not in line["history"]
        assert len(line["history"]) == len(line["history_ratings"]) > 0


def test_baselines_are_measured_by_what_they_predict(examples):
    """The means of train, which need no model: in both protocols, by hand."""
    rows = beside(examples)
    train = examples.domain.rating_split("train")
    mean = train.ratings.mean(dtype=float)

    def shrunk(of):
        """(Σ r + 5 · mean) / (n + 5) over the train ratings of the user, or of the item."""
        own = [train.ratings[getattr(train, of) == asked] for asked in getattr(examples, of)]
        assert all(map(len, own))
        return np.array([(r.sum(dtype=float) + 5 * mean) / (len(r) + 5) for r in own])

    predicted = {
        "global mean": np.full(5, mean),
        "user mean": shrunk("users"),
        "item mean": shrunk("items"),
    }
    for name, values in predicted.items():
        errors = values - examples.ratings
        expected = np.sqrt(np.mean(errors**2)), np.mean(np.abs(errors))
        for protocol in ("rating", "rating_expected"):
            found = [rows[name][f"{protocol}/{metric}"] for metric in ("rmse", "mae")]
            assert found == pytest.approx(expected, rel=1e-6)
    for row in rows.values():
        assert "rating_expected/rmse" in row
