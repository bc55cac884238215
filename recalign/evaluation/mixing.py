"""Models that are asked together: their scores standardised, weighted and added up.

    score(x) = Σ_i w_i · (s_i(x) − mean of s_i) / (standard deviation of s_i),

mean and deviation over the whole catalogue, for each history on its own. The first model's weight
is 1; the others' are chosen by NDCG@10 on validation, seen items removed.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from recalign.evaluation.baselines.rankers import (
    CHUNK_ENTRIES,
    DenseRanker,
    Histories,
    Ranker,
    best_items,
    chunks,
    make_seen_impossible,
)
from recalign.evaluation.examples import RetrievalExamples
from recalign.evaluation.groups import evaluate_rankings
from recalign.evaluation.metrics import CUTOFFS
from recalign.evaluation.outcomes import Evaluated

log = logging.getLogger(__name__)

Scorer = Callable[[RetrievalExamples, slice], np.ndarray]
"""Gives the scores of all items, float32[rows, N], for some rows of the examples."""

WEIGHTS = (0.0, *(2.0**power for power in range(-6, 4)))
"""To choose from. Small ones are for closed forms, which tell a few items from many that are level:
the best stand tens of deviations off the mean, where a network's stand at five."""

JUDGED = 5_000
"""So many validation examples, the first ones, are enough to choose by."""

HELD_ENTRIES = 400_000_000
"""So many scores, of 4 bytes, are held at once while weights are chosen."""

SWEEPS = 4


class Term(NamedTuple):
    """A model of a sum: how tables call it, and its scores."""

    label: str
    score: Scorer


def scorer_of(ranker: Ranker, num_items: int) -> Scorer:
    """The scores that a fitted baseline gives to the whole catalogue."""

    def score(examples: RetrievalExamples, rows: slice) -> np.ndarray:
        bounds = examples.offsets[rows.start : rows.stop + 1]
        events = examples.events[bounds[0] : bounds[-1]]
        histories = Histories(bounds - bounds[0], events, examples.users[rows])
        if isinstance(ranker, DenseRanker):
            return np.concatenate([scores for _, scores in ranker.score_chunks(histories)])
        everything = np.arange(num_items, dtype=np.int32)
        return ranker.score(histories, np.tile(everything, (len(bounds) - 1, 1)))

    return score


def standardise(scores: np.ndarray) -> np.ndarray:
    """Scores [m, N] with mean 0 and deviation 1 in each row, float32; all 0 where they are equal.

    What is impossible, −∞, stays so and has no say in the others' mean.
    """
    scores = np.asarray(scores, np.float64)
    possible = scores > -np.inf
    counts = np.maximum(possible.sum(axis=1, keepdims=True), 1)
    centred = scores - np.where(possible, scores, 0).sum(axis=1, keepdims=True) / counts
    spread = np.sqrt((np.where(possible, centred, 0) ** 2).sum(axis=1, keepdims=True) / counts)
    return np.divide(centred, spread, out=np.minimum(centred, 0), where=spread > 0).astype(
        np.float32
    )


def choose_weights(scorers: Sequence[Scorer], held: RetrievalExamples) -> list[float]:
    """The weights by which the sum does best, found one after the other until none changes.

    The first of the validation examples that are held decide.

    Returns:
      1 for the first model, and for each of the others one of `WEIGHTS`.
    """
    num_items = held.domain.num_items
    number = min(len(held), JUDGED, max(1, HELD_ENTRIES // (num_items * (len(scorers) + 1))))
    targets = held.targets[:number]
    parts = [
        np.concatenate([standardise(score(held, rows)) for rows in _pieces(number, num_items)])
        for score in scorers
    ]
    make_seen_impossible(parts[0], held, slice(0, number))
    weights, best = [1.0] * len(scorers), -np.inf
    for _ in range(SWEEPS):
        before = list(weights)
        for place in range(1, len(scorers)):
            rest = [*range(place), *range(place + 1, len(scorers))]
            others = _add([parts[i] for i in rest], [weights[i] for i in rest])
            for weight in WEIGHTS:
                ndcg = _ndcg(others, weight, parts[place], targets)
                if ndcg > best:
                    best, weights[place] = ndcg, weight
        if weights == before:
            break
    log.info("weights %s, by NDCG@10 %.5f on %d validation examples", weights, best, number)
    return weights


def evaluate_sum(
    scorers: Sequence[Scorer], weights: Sequence[float], examples: RetrievalExamples
) -> list[Evaluated]:
    """`full/…` and `full_unseen/…` over the whole catalogue, also by group.

    Returns:
      What the sum comes to, and then each model but the first.
    """
    num_items, shape = examples.domain.num_items, (len(examples), max(CUTOFFS))
    ranked = [{name: np.empty(shape, np.int32) for name in _PROTOCOLS} for _ in scorers]
    for rows in _pieces(len(examples), num_items):
        scores = [score(examples, rows) for score in scorers]
        total = _add([standardise(each) for each in scores], weights)
        for lists, each in zip(ranked, [total, *map(np.array, scores[1:])], strict=True):
            for found in lists.values():  # of all items, then of unseen ones
                found[rows] = best_items(each, shape[1])
                make_seen_impossible(each, examples, rows)
    train, about = examples.domain.train(), (examples, examples.targets, examples.users)
    return [evaluate_rankings(lists, train, num_items, *about) for lists in ranked]


_PROTOCOLS = ("full", "full_unseen")


def _add(parts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """A new array: the weighted sum; a model of weight 0 has no say, not even of −∞."""
    total = np.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        if weight:
            total += np.float32(weight) * part
    return total


def _ndcg(others: np.ndarray, weight: float, part: np.ndarray, targets: np.ndarray) -> float:
    """NDCG@10 of the sum; equal scores count against the target, and one removed is a miss."""
    gains = 0.0
    for rows in _pieces(len(targets), others.shape[1]):
        total = _add([others[rows], part[rows]], [1.0, weight])
        own = np.take_along_axis(total, targets[rows, None], axis=1)
        ranks = (total >= own).sum(axis=1)
        hit = (ranks <= 10) & (own[:, 0] > -np.inf)
        gains += float(np.sum(hit / np.log2(ranks + 1)))
    return gains / len(targets)


def _pieces(number: int, num_items: int) -> list[slice]:
    return chunks(np.full(number, num_items), CHUNK_ENTRIES)
