"""What each task's judge makes of a network's answers, where these are known."""

import dataclasses
import math

import numpy as np
import pytest

from recalign.domains.assemble import assemble
from recalign.domains.readers import toyshop
from recalign.engine.search.beam_search import Ranked
from recalign.evaluation import metrics
from recalign.evaluation.baselines.rows import beside
from recalign.evaluation.examples import RankingExamples, RatingExamples
from recalign.evaluation.judges import RankingJudge, RatingJudge, RetrievalJudge
from recalign.evaluation.metrics import rating_in
from tests.evaluation import shops

TEXTS = {2: "4", 3: ".5", 4: "1", 5: "five", 6: "7", 7: "nan", 8: "0"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("4.5", 4.5),
        ("1", 1),
        ("5.0", 5),
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
        [[2, 1, 0, 0, 0], [2, 3, 1, 0, 0], [6, 1, 0, 0, 0], [2, 3, 8, 8, 8], [5, 1, 0, 0, 0]]
    )
    probabilities = np.array([[1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 2]]) + 1e-30
    return RatingJudge(Answers(answers, np.log(probabilities)), decode)


def decode(tokens):
    return "".join(TEXTS[t] for t in tokens if t > 1)


def test_what_is_no_rating_is_judged_as_the_mean_of_train(examples):
    found = judge(examples).evaluate(None, examples).metrics
    # 4 and 4.5 are right; 7 is off the scale, 4.5000 does not end, "five" is no number.
    errors = np.array([0, 0, 3 - 1, 3 - 4, 3 - 4.5])
    assert found["rating/parse_rate"] == pytest.approx(2 / 5)
    assert found["rating/rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert found["rating/mae"] == pytest.approx(np.mean(np.abs(errors)))
    errors = np.array([2.5 - 4, 0, 0, 0, 3.5 - 4.5])
    assert found["rating_expected/rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert found["rating_expected/mae"] == pytest.approx(np.mean(np.abs(errors)))


def test_predictions_tell_what_was_known_and_what_was_answered(examples):
    lines = list(judge(examples).predictions(None, examples))
    assert [line["answer"] for line in lines] == ["4", "4.5", "7", "4.5000", "five"]
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


class Catalogue:
    """Stands in for a network over a catalogue: it knows the scores of all items by history."""

    num_beams = 25

    def __init__(self, examples):
        self.asked = examples.inputs, examples.given
        size = len(examples), examples.domain.num_items
        self.scores = np.random.default_rng(1).normal(size=size).astype(np.float32)
        known = np.arange(0, len(examples), 2)
        self.scores[known, examples.targets[known]] += 1.5
        owners = np.repeat(np.arange(len(examples)), np.diff(examples.offsets))
        self.scores[owners, examples.events] += 5

    def rank(self, params, inputs, offsets, events, given):
        assert (inputs, given) == self.asked
        unseen = self.scores.copy()
        unseen[np.repeat(np.arange(len(inputs)), np.diff(offsets)), events] = -np.inf
        return self.best(params, inputs, self.num_beams, given), ranked_by(unseen, self.num_beams)

    def best(self, params, inputs, depth, given):
        assert (inputs, given) == self.asked
        return ranked_by(self.scores, depth)

    def score(self, params, inputs, items, given):
        assert (inputs, given) == self.asked
        return np.take_along_axis(self.scores, items, axis=1)


def ranked_by(scores, depth):
    """The best items; in the first row the last slots are empty, as where no beam was left."""
    items = np.argsort(-scores, axis=1)[:, :depth].astype(np.int32)
    scores = np.take_along_axis(scores, items, axis=1)
    items[0, 8:], scores[0, 8:] = metrics.EMPTY, -np.inf
    return Ranked(items, scores)


@pytest.fixture
def asked():
    made = shops.retrieval(shops.domain(), "test")
    return dataclasses.replace(made, given=[np.array([2])] * len(made))


def test_lists_are_judged_with_what_was_seen_and_without_it(asked):
    model = Catalogue(asked)
    found = RetrievalJudge(model).evaluate(None, asked)
    assert (found.outcomes["full"].users == asked.domain.split("test").users).all()
    unseen = model.scores.copy()
    for row, history in zip(unseen, asked.histories, strict=True):
        row[history] = -np.inf
    for protocol, scores in (("full", model.scores), ("full_unseen", unseen)):
        items = ranked_by(scores, 25).items
        expected = metrics.full_ranking(items, asked.targets, asked.domain.num_items, protocol)
        assert expected.items() <= found.metrics.items()
        assert f"{protocol}/hr@10/tail" in found.metrics
    assert 0 < found.metrics["full/hr@10"] < found.metrics["full_unseen/hr@10"] < 1


def assert_questions(lines, examples):
    keys = examples.domain.items["key"]
    for line, history, target in zip(lines, examples.histories, examples.targets, strict=True):
        assert line["history"] == [keys[item] for item in history]
        assert line["target"] == keys[target]


def test_predictions_of_lists_are_the_best_items_that_there_are(asked):
    model = Catalogue(asked)
    lines = list(RetrievalJudge(model).predictions(None, asked))
    assert_questions(lines, asked)
    number = {key: item for item, key in enumerate(asked.domain.items["key"])}
    for row, line in enumerate(lines):
        best = np.argsort(-model.scores[row])[: 20 if row else 8]
        assert [number[key] for key in line["items"]] == best.tolist()
        np.testing.assert_array_equal(line["scores"], model.scores[row][best])


def test_candidates_are_judged_and_told_by_their_scores(asked):
    fields = {field.name: getattr(asked, field.name) for field in dataclasses.fields(asked)}
    examples = RankingExamples(**fields, candidates=asked.domain.candidates("test"))
    model = Catalogue(examples)
    found = RankingJudge(model).evaluate(None, examples)
    own = np.take_along_axis(model.scores, examples.candidates, axis=1)
    columns = np.nonzero(examples.candidates == examples.targets[:, None])[1]
    assert found.metrics == metrics.candidate_ranking(own, columns)
    assert 0 < found.metrics["cand100/hr@10"] < 1
    assert (found.outcomes["cand100"].users == asked.domain.split("test").users).all()
    lines = list(RankingJudge(model).predictions(None, examples))
    assert_questions(lines, examples)
    number = {key: item for item, key in enumerate(asked.domain.items["key"])}
    for row, line in enumerate(lines):
        items = [number[key] for key in line["items"]]
        assert sorted(items) == sorted(examples.candidates[row].tolist())
        np.testing.assert_array_equal(line["scores"], model.scores[row][items])
        assert np.all(np.diff(line["scores"]) <= 0)
