"""A SeqIO evaluator reports our metrics, from nothing but the tasks."""

import gin
import numpy as np
import pytest
import seqio

from recalign.evaluation import metrics
from recalign.samples import metric_fns
from recalign.samples.answers import FeatureConverter
from recalign.samples.items import item_texts
from recalign.samples.registry import domain_of
from recalign.t5x.evaluator import Evaluator

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

    evaluator = seqio.Evaluator(task, FeatureConverter(pack=False), "test", sequence_length=LENGTHS)
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


def judge_texts(shop, targets, given, written):
    """`full_ranking` of texts, for examples that have seen nothing."""
    nothing = np.zeros(0, np.int32)
    asked = [
        metric_fns.NextItem(item, nothing, np.array(tokens, np.int32))
        for item, tokens in zip(targets, given, strict=True)
    ]
    return metric_fns.full_ranking(asked, written, "testshop", str(shop.path.parent))


def test_empty_beams_cost_no_cut_off(texts, shop):
    written = [[*texts.ids[:9], "", ""], [*texts.ids[10:21]]]
    found = judge_texts(shop, [8, 20], [[], []], written)
    assert found["full_unseen/hr@10"] == found["full/hr@10"] == 0.5


def test_an_item_is_read_as_itself_before_as_a_whole_answer(shop):
    gin.bind_parameter("item_texts.target_form", "title")
    vocabulary = vocabulary_of("testshop_retrieval")
    title = item_texts("testshop", str(shop.path.parent)).target[7]
    first = vocabulary.encode(title.split(" ")[0])
    written = [[title], [f"{title.split(' ')[0]} {title}"], [title.split(" ", 1)[1]]]
    found = judge_texts(shop, [7] * 3, [first] * 3, written)
    assert found["full/hr@1"] == pytest.approx(2 / 3)
    assert found["full/invalid_rate"] == pytest.approx(1 / 3)


def unseen(example, num_items):
    """Items that are not in the history, the target (if it is one of them) somewhere among them."""
    return np.setdiff1d(np.arange(num_items), example["seen"])


def test_one_answer_is_a_list_of_one(examples, texts):
    targets = np.array([example["item"] for example in examples])
    found = judge(texts, "testshop_retrieval", targets)["testshop_retrieval"]
    assert found["full/hr@1"] == 1
    assert "full/hr@5" not in found


class Model:
    """Stands in for a model: it scores answers, if it is given any, and writes, as it is told.

    Attributes:
      choices: the answers as text, by the example's place.
    """

    def __init__(self, vocabulary, scores, written=()):
        self.vocabulary, self.scores, self.written = vocabulary, scores, written
        self.choices = {}

    def score(self, dataset):
        batches = dataset.batch(4).unbatch()  # as an evaluator must be able to batch them
        for e, features in batches.as_numpy_iterator():
            if "choices" not in features:
                return [(int(e), -1.0) for e, _ in dataset.as_numpy_iterator()]
            assert (features["choices"] == 1).sum() == len(features["choices"])
            self.choices[int(e)] = [self.vocabulary.decode(c.tolist()) for c in features["choices"]]
        return [(e, self.scores[e].tolist()) for e in self.choices]

    def predict(self, dataset):
        room = max(len(text) for text in self.written) + 2
        rows = [[*self.vocabulary.encode(text), 1] for text in self.written]
        return [(e, row + [0] * (room - len(row))) for e, row in enumerate(rows)]


def evaluate(task, model, kind=Evaluator):
    """What SeqIO says of a model, and the examples that it was asked."""
    provider = seqio.get_mixture_or_task(task)
    lengths = {"inputs": 256, "targets": 8}
    converter = FeatureConverter(pack=False)
    evaluator = kind(task, converter, "test", sequence_length=lengths)
    found, _ = evaluator.evaluate(
        compute_metrics=True, predict_fn=model.predict, score_fn=model.score
    )
    dataset = provider.get_dataset(lengths, "test", shuffle=False)
    return found.result()[task], list(dataset.as_numpy_iterator())


def vocabulary_of(task):
    return seqio.get_mixture_or_task(task).output_features["targets"].vocabulary


def test_candidates_are_ranked_by_the_scores_of_their_texts(shop, texts):
    scores = np.random.default_rng(0).normal(size=(len(shop.split("test")), 100))
    scores = scores[:, : shop.statistics["candidates"]["test"]["candidates"]]
    model = Model(vocabulary_of("testshop_ranking"), scores)
    found, examples = evaluate("testshop_ranking", model)
    for e, example in enumerate(examples):
        assert model.choices[e] == texts.target[example["candidates"]].tolist()
    positives = np.array([list(e["candidates"]).index(e["item"]) for e in examples])
    expected = metrics.candidate_ranking(scores, positives)
    assert found == pytest.approx(expected)
    assert 0 < expected[f"cand{scores.shape[1]}/hr@10"] < 1


def test_ratings_are_read_from_the_text_and_expected_from_the_scores(rated):
    stars = ["0.5", "1", "1.5", "2", "2.5", "3", "3.5", "4", "4.5", "5"]
    answers = ["4", "0.5", "11", "five", ""]
    size = len(rated.rating_split("test"))
    written = [answers[e % len(answers)] for e in range(size)]
    scores = np.log(np.random.default_rng(0).dirichlet(np.ones(len(stars)), size))
    model = Model(vocabulary_of("ratedshop_rating"), scores, written)
    found, examples = evaluate("ratedshop_rating", model)
    assert all(choices == stars for choices in model.choices.values())
    true = np.array([example["rating"] for example in examples])
    numbers = np.array([{"4": 4, "0.5": 0.5}.get(text, np.nan) for text in written])
    mean = rated.statistics["ratings"]["mean"]
    expected = metrics.rating(np.exp(scores) @ np.array(stars, float), true, mean)
    assert found == pytest.approx(
        {
            **metrics.rating(numbers, true, mean),
            "rating_expected/rmse": expected["rating/rmse"],
            "rating_expected/mae": expected["rating/mae"],
        }
    )


@pytest.mark.parametrize("kind", ["ranking", "rating"])
def test_an_evaluator_without_choices_reports_nothing_of_scores(rated, kind):
    task = f"ratedshop_{kind}"
    model = Model(vocabulary_of(task), (), ["4"] * len(rated.rating_split("test")))
    found, _ = evaluate(task, model, seqio.Evaluator)
    assert not [name for name in found if name.startswith(("cand", "rating_expected"))]


def test_beams_of_items_are_no_ratings(rated):
    [metric, _] = seqio.get_mixture_or_task("ratedshop_rating").metric_fns
    assert metric([4.0], [["#01", "#02"]]) == {}
    assert metric([4.0], ["4"])["rating/rmse"] == 0


@pytest.mark.usefixtures("rated")
def test_of_a_mixture_the_tasks_with_metrics_are_judged():
    evaluator = Evaluator(
        "ratedshop_aligned",
        FeatureConverter(pack=False),
        "test",
        sequence_length={"inputs": 256, "targets": 64},
    )
    judged = [f"ratedshop_{kind}" for kind in ("retrieval", "ranking", "rating")]
    assert sorted(task.name for task in evaluator.eval_tasks) == sorted(judged)
    spec = {name: d.element_spec[1] for name, d in evaluator.cached_model_datasets.items()}
    assert [name for name in judged if "choices" in spec[name]] == judged[1:]
