"""How each kind of task is judged: what the network is asked, and what is made of its answers."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from recalign.engine.search.catalogue_model import CatalogueModel
from recalign.evaluation import metrics
from recalign.evaluation.examples import (
    Examples,
    RankingExamples,
    RatingExamples,
    RetrievalExamples,
)
from recalign.evaluation.groups import evaluate_rankings
from recalign.evaluation.outcomes import (
    Evaluated,
    as_expected,
    evaluate_candidates,
    evaluate_ratings,
)

# What an answer may hold beside a rating before it counts as one that does not end.
SPARE_TOKENS = 2
PREDICTED = 20  # items that are written of a ranking


class Judge(Protocol):
    """Judges a network on one task; it is compiled once and serves all splits."""

    def evaluate(self, params: Any, examples: Examples) -> Evaluated:
        """Every `<protocol>/<metric>` of the examples, and what each of them came to."""

    def predictions(self, params: Any, examples: Examples) -> Iterator[dict]:
        """A JSON-ready object an example."""


def judge(
    examples: Examples, model: CatalogueModel, decode: Callable[[Sequence[int]], str]
) -> Judge:
    """The judge of the task that some examples are of."""
    if isinstance(examples, RatingExamples):
        return RatingJudge(model, decode)
    if isinstance(examples, RankingExamples):
        return RankingJudge(model)
    return RetrievalJudge(model)


class RetrievalJudge:
    """`full/…` and `full_unseen/…`, also by group: beam search over the whole catalogue."""

    def __init__(self, model: CatalogueModel):
        self._model = model

    def evaluate(self, params: Any, examples: RetrievalExamples) -> Evaluated:
        """See `Judge`."""
        every, unseen = self._model.rank(
            params, examples.inputs, examples.offsets, examples.events, given=examples.given
        )
        ranked = {"full": every.items, "full_unseen": unseen.items}
        train, num_items = examples.domain.train(), examples.domain.num_items
        return evaluate_rankings(
            ranked, train, num_items, examples, examples.targets, examples.users
        )

    def predictions(self, params: Any, examples: RetrievalExamples) -> Iterator[dict]:
        """`history`, `target`, and `items` with `scores`, best first, seen ones among them."""
        keys = examples.domain.items["key"].to_numpy()
        depth = min(PREDICTED, self._model.num_beams)
        ranked = self._model.best(params, examples.inputs, depth, examples.given)
        for record, items, scores in zip(_questions(examples), *ranked, strict=True):
            found = items >= 0
            yield record | {"items": keys[items[found]].tolist(), "scores": scores[found].tolist()}


class RankingJudge:
    """`cand<C>/…`: the exact log-probability of each candidate."""

    def __init__(self, model: CatalogueModel):
        self._model = model

    def evaluate(self, params: Any, examples: RankingExamples) -> Evaluated:
        """See `Judge`."""
        scores = self._scores(params, examples)
        return evaluate_candidates(scores, examples.positives, examples.users)

    def predictions(self, params: Any, examples: RankingExamples) -> Iterator[dict]:
        """`history`, `target`, and all candidates as `items` with `scores`, best first."""
        keys = examples.domain.items["key"].to_numpy()
        scores = self._scores(params, examples)
        for record, items, own in zip(
            _questions(examples), examples.candidates, scores, strict=True
        ):
            order = np.argsort(-own, kind="stable")
            yield record | {"items": keys[items[order]].tolist(), "scores": own[order].tolist()}

    def _scores(self, params: Any, examples: RankingExamples) -> np.ndarray:
        return self._model.score(params, examples.inputs, examples.candidates, given=examples.given)


class RatingJudge:
    """`rating/…`: what is written; `rating_expected/…`: the mean of what might be written.

    An answer is a rating if it ends, is a number, and lies on the scale of the training ratings.
    Any other is judged as their mean. The expectation is over the ratings that there are in train,
    weighted by the probabilities of their texts.
    """

    def __init__(self, model: CatalogueModel, decode: Callable[[Sequence[int]], str]):
        self._model = model
        self._decode = decode

    def evaluate(self, params: Any, examples: RatingExamples) -> Evaluated:
        """See `Judge`."""
        judged = examples.ratings, examples.domain.statistics["ratings"]["mean"], examples.users
        _, written = self._answers(params, examples)
        expected = self._expected_ratings(params, examples)
        return evaluate_ratings(written, *judged) | as_expected(evaluate_ratings(expected, *judged))

    def predictions(self, params: Any, examples: RatingExamples) -> Iterator[dict]:
        """What was known and asked, the true `rating`, and what was answered.

        `answer` is the text as it was written, `written` the rating that it is or null, `expected`
        the expectation.
        """
        keys = examples.domain.items["key"].to_numpy()
        texts, written = self._answers(params, examples)
        expected = self._expected_ratings(params, examples)
        train = examples.domain.rating_split("train")
        for e, user in enumerate(examples.users):
            known = slice(train.train_offsets[user], train.train_offsets[user + 1])
            yield {
                "history": keys[train.train_items[known]].tolist(),
                "history_ratings": train.train_ratings[known].tolist(),
                "item": keys[examples.items[e]],
                "rating": float(examples.ratings[e]),
                "answer": texts[e],
                "written": None if math.isnan(written[e]) else float(written[e]),
                "expected": float(expected[e]),
            }

    def _answers(self, params: Any, examples: RatingExamples) -> tuple[list[str], np.ndarray]:
        """Each example's answer as text, and as a rating, float64[m], nan where it is none."""
        length = max(map(len, examples.stars)) + SPARE_TOKENS
        tokens = self._model.generate(params, examples.inputs, length)
        ended = (tokens == examples.stars[0][-1]).any(axis=1)
        texts = [self._decode([t for t in row if t]) for row in tokens.tolist()]
        low, high = examples.values.min(), examples.values.max()
        found = [
            metrics.rating_in(text, low, high) if done else math.nan
            for text, done in zip(texts, ended, strict=True)
        ]
        return texts, np.array(found)

    def _expected_ratings(self, params: Any, examples: RatingExamples) -> np.ndarray:
        """The expected rating of each example, float64[m]."""
        every = np.arange(len(examples.stars), dtype=np.int32)
        items = np.broadcast_to(every, (len(examples), len(every)))
        scores = self._model.score(params, examples.inputs, items)
        return metrics.expected_rating(scores, examples.values)


def _questions(examples: RetrievalExamples) -> Iterator[dict]:
    """`history` and `target` of each example, as the source's item ids."""
    keys = examples.domain.items["key"].to_numpy()
    for history, target in zip(examples.histories, examples.targets, strict=True):
        yield {"history": keys[history].tolist(), "target": keys[target]}
