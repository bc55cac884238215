"""Metrics of ranked lists, candidate scores and ratings; every name carries its protocol.

Lists are judged slot by slot, as the model gave them:

* A slot holds an item (0 … num_items−1), nothing (−1), or something that is not an item (any
  other number; decoders write −2).
* **Ranks are never shifted.** A repeated item, a non-item or an empty slot keeps its place, so a
  decoder that wastes slots pays for them. The one exception is stated: `remove_seen` closes up the
  places of history items, which is what `full_unseen` means.
* **Credit is given once**, at the target's best rank; later repeats earn nothing.
* A cut-off deeper than the list is left out, not reported as if the list were that deep.
"""

import math

import numpy as np
import scipy.special

EMPTY = -1
"""Marks a slot that holds nothing."""

HISTORIES_AT_ONCE = 4096
"""Compared with their lists in one go: a few MB where histories are short, more where long."""

CUTOFFS = (1, 5, 10, 20)
MRR_CUTOFF = 10
COVERAGE_CUTOFF = 10
CANDIDATE_HR_CUTOFFS = (1, 5, 10)
CANDIDATE_NDCG_CUTOFFS = (5, 10)


def full_ranking(
    ranked: np.ndarray, targets: np.ndarray, num_items: int, protocol: str = "full"
) -> dict[str, float]:
    """Judges lists drawn from the whole catalogue.

    With r the target's best rank in its list (1 = first, ∞ = absent), means over examples of:

    * `hr@k` = [r ≤ k], the hit rate; with one target it is recall@k.
    * `ndcg@k` = [r ≤ k] / log2(r + 1) (Järvelin & Kekäläinen 2002; the ideal DCG of one target
      is 1).
    * `mrr@10` = [r ≤ 10] / r (Voorhees 1999).

    And over all slots asked for (m · K, empty ones among them):

    * `invalid_rate`: share of slots holding something that is not an item.
    * `duplicate_rate`: share of slots holding an item that stands higher in the same list.

    `coverage@10` is the share of the catalogue standing in the first ten slots of any list.

    Args:
      ranked: int[m, K], item indices, best first.
      targets: int[m], the item to find.
      num_items: size of the catalogue.
      protocol: prefix of the names, `full` or `full_unseen`.

    Returns:
      `{"full/hr@10": …}`, a flat dict of floats, without the cut-offs deeper than K.

    Raises:
      ValueError: shapes do not fit, there are no examples, or a target is not an item.
    """
    _check_lists(ranked, targets, num_items)
    depth = ranked.shape[1]
    values = rank_values(target_ranks(ranked, targets), depth)
    metrics = {name: np.mean(value) for name, value in values.items()}
    metrics["invalid_rate"] = np.mean((ranked < EMPTY) | (ranked >= num_items))
    metrics["duplicate_rate"] = _duplicates(ranked, num_items) / ranked.size
    if depth >= COVERAGE_CUTOFF:
        shown = _distinct_items(ranked[:, :COVERAGE_CUTOFF], num_items)
        metrics[f"coverage@{COVERAGE_CUTOFF}"] = shown / num_items
    return {f"{protocol}/{name}": float(value) for name, value in metrics.items()}


def rank_values(ranks: np.ndarray, depth: int) -> dict[str, np.ndarray]:
    """What `full_ranking` takes the means of, [m] each: by hr@k, ndcg@k and mrr@10.

    Args:
      ranks: float64[m], the target's in each list, ∞ = absent.
      depth: how long the lists are; deeper cut-offs are left out.
    """
    values = {f"hr@{k}": ranks <= k for k in CUTOFFS if k <= depth}
    values |= {f"ndcg@{k}": _discount(ranks, k) for k in CUTOFFS if k <= depth}
    if depth >= MRR_CUTOFF:
        values[f"mrr@{MRR_CUTOFF}"] = np.where(ranks <= MRR_CUTOFF, 1 / ranks, 0)
    return values


def remove_seen(ranked: np.ndarray, offsets: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Takes the items of each history out of its list and closes the gaps.

    Everything else keeps its order, repeats, non-items and empty slots too; freed slots are at
    the end and empty. A target that stands in its own history is removed with it: a miss.

    Args:
      ranked: int[m, K], item indices, best first.
      offsets: int[m + 1], where each history starts in `events`.
      events: int[n], item indices of the histories, ≥ 0.

    Returns:
      int[m, K], of the type of `ranked`.
    """
    examples, depth = ranked.shape
    if len(offsets) != examples + 1:
        raise ValueError(f"{examples} lists, but offsets for {len(offsets) - 1} histories")
    lengths = np.diff(offsets)
    events = np.asarray(events)[offsets[0] : offsets[-1]]
    seen = np.zeros(ranked.shape, bool)
    known = np.flatnonzero(lengths)
    starts = offsets[:-1][known] - offsets[0]
    for part in range(0, len(known), HISTORIES_AT_ONCE):
        rows, first = known[part : part + HISTORIES_AT_ONCE], starts[part]
        own = events[first : first + lengths[rows].sum()]
        hits = np.repeat(ranked[rows], lengths[rows], axis=0) == own[:, None]
        seen[rows] = np.logical_or.reduceat(hits, starts[part : part + len(rows)] - first)
    kept = depth - seen.sum(axis=1, keepdims=True)
    closed = np.full_like(ranked, EMPTY)
    closed[np.arange(depth) < kept] = ranked[~seen]  # both by row, then from left to right
    return closed


def target_ranks(ranked: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Each target's best rank in its list: float64[m], 1 = first, ∞ = absent."""
    hits = ranked == np.asarray(targets)[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1.0, np.inf)


def candidate_ranking(scores: np.ndarray, positives: np.ndarray | int) -> dict[str, float]:
    """Judges the scores of one positive among sampled candidates.

    The positive's rank is 1 + the number of other candidates scoring at least as much. Ties are
    thus settled **against** the positive: a scorer that says the same of every candidate gets
    nothing, and no metric depends on the order of the columns. `hr@k` and `ndcg@k` are those of
    `full_ranking`, but never comparable with them (Krichene & Rendle, KDD 2020), so the number of
    candidates is part of the name.

    Args:
      scores: float[m, C], a score for each candidate, higher is better; −∞ is allowed.
      positives: the positive's column, int[m] or one for all.

    Returns:
      `cand<C>/hr@{1,5,10}` and `cand<C>/ndcg@{5,10}` as floats.

    Raises:
      ValueError: there are no examples, or a score is NaN (it has no rank).
    """
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"scores must be [examples, candidates], not empty; got {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} candidate scores are NaN")
    ranks = candidate_ranks(scores, positives)
    metrics = {f"hr@{k}": np.mean(ranks <= k) for k in CANDIDATE_HR_CUTOFFS}
    metrics |= {f"ndcg@{k}": np.mean(_discount(ranks, k)) for k in CANDIDATE_NDCG_CUTOFFS}
    return {f"cand{scores.shape[1]}/{name}": float(value) for name, value in metrics.items()}


def candidate_ranks(scores: np.ndarray, positives: np.ndarray | int) -> np.ndarray:
    """The positive's rank among its candidates, int64[m]; arguments as of `candidate_ranking`."""
    columns = np.broadcast_to(positives, len(scores))[:, None]
    # The positive itself scores as much as itself, which is the 1 of the rank.
    return (scores >= np.take_along_axis(scores, columns, axis=1)).sum(axis=1)


def rating(predictions: np.ndarray, ratings: np.ndarray, fallback: float) -> dict[str, float]:
    """Judges predicted ratings, every one of them.

    * `rmse` = √ mean (p − y)², `mae` = mean |p − y|, over all examples.
    * `parse_rate`: share of predictions that were numbers at all.

    A prediction that could not be read is NaN (or infinite) and is judged as `fallback`, the
    mean training rating for one: leaving it out would reward a model for not answering.

    Args:
      predictions: float[m], NaN where the answer was no number.
      ratings: float[m], the true ratings.
      fallback: stands in for unreadable predictions.

    Returns:
      `rating/rmse`, `rating/mae`, `rating/parse_rate` as floats.

    Raises:
      ValueError: shapes differ, there are no examples, or the fallback is not a number.
    """
    errors = rating_errors(predictions, ratings, fallback)
    return {
        "rating/rmse": float(np.sqrt(np.mean(errors**2))),
        "rating/mae": float(np.mean(np.abs(errors))),
        "rating/parse_rate": float(np.mean(np.isfinite(predictions))),
    }


def rating_errors(predictions: np.ndarray, ratings: np.ndarray, fallback: float) -> np.ndarray:
    """Predicted less true ratings, float64[m]; arguments and errors as of `rating`."""
    predictions, ratings = np.asarray(predictions, float), np.asarray(ratings, float)
    if predictions.shape != ratings.shape or not ratings.size:
        raise ValueError(f"{predictions.shape} predictions for {ratings.shape} ratings")
    if not np.isfinite(fallback):
        raise ValueError(f"the fallback rating must be a finite number, not {fallback}")
    return np.where(np.isfinite(predictions), predictions, fallback) - ratings


def as_expected(found: dict[str, float]) -> dict[str, float]:
    """The errors of `rating` under the names that those of an expectation have."""
    return {f"rating_expected/{name}": found[f"rating/{name}"] for name in ("rmse", "mae")}


def expected_rating(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of the values, weighted by the probabilities of their texts: float64[m].

    Args:
      scores: float[m, s], the log-probability of the text of each value.
      values: float[s], ratings.
    """
    return scipy.special.softmax(np.asarray(scores, float), axis=1) @ values


def rating_in(text: str, low: float, high: float) -> float:
    """The number that a text is, nan unless it is one from `low` to `high`."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if low <= value <= high else math.nan


def _check_lists(ranked: np.ndarray, targets: np.ndarray, num_items: int) -> None:
    if ranked.ndim != 2 or not ranked.size or targets.shape != ranked.shape[:1]:
        raise ValueError(
            f"lists must be [examples, slots], not empty, with a target each; "
            f"got lists {ranked.shape} and targets {targets.shape}"
        )
    if targets.min() < 0 or targets.max() >= num_items:
        raise ValueError(
            f"targets must be items 0 … {num_items - 1}; got {targets.min()} … {targets.max()}"
        )


def _discount(ranks: np.ndarray, k: int) -> np.ndarray:
    """The gain of one relevant item at each rank, 1 / log2(r + 1), nothing beyond k."""
    return np.where(ranks <= k, 1 / np.log2(ranks + 1), 0)


def _duplicates(ranked: np.ndarray, num_items: int) -> int:
    """How many slots repeat an item of a better slot of their list."""
    by_item = np.sort(ranked, axis=1)
    repeats = by_item[:, 1:] == by_item[:, :-1]
    is_item = (by_item[:, 1:] >= 0) & (by_item[:, 1:] < num_items)
    return int(np.count_nonzero(repeats & is_item))


def _distinct_items(ranked: np.ndarray, num_items: int) -> int:
    """How many items of the catalogue stand anywhere in the lists."""
    shown = np.zeros(num_items, bool)
    shown[ranked[(ranked >= 0) & (ranked < num_items)]] = True
    return int(np.count_nonzero(shown))


def beam_recall(beam: np.ndarray, exact: np.ndarray, protocol: str = "full") -> dict[str, float]:
    """How much of the exact top a beam finds.

    `beam_recall@k` is the mean of |first k of the beam ∩ first k exact| / |first k exact| over the
    examples for which there is an item at all, for k = 10 and 20 as far as the lists go.

    Args:
      beam: int32[m, slots], item indices, best first, -1 in empty slots.
      exact: int32[m, slots], the same from exact scores.
      protocol: the prefix of the names.

    Returns:
      `{"full/beam_recall@10": …}`.
    """

    def recall(k: int) -> float:
        top = exact[:, :k]
        found = (top[:, :, None] == beam[:, None, :k]).any(axis=2) & (top >= 0)
        items = (top >= 0).sum(axis=1)
        return float(np.mean(found.sum(axis=1)[items > 0] / items[items > 0]))

    return {f"{protocol}/beam_recall@{k}": recall(k) for k in (10, 20) if k <= exact.shape[1]}
