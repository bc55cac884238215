"""Rankers that count and need no training: popularity and item co-occurrence."""

from typing import Self

import numpy as np
import scipy.sparse as sp

from recalign.evaluation.baselines import rankers
from recalign.evaluation.baselines.rankers import (
    Histories,
    check_events,
    chunks,
    count_ages,
    find_owners,
)
from recalign.evaluation.metrics import EMPTY

DECAY = 0.7
"""Weight of a history item relative to the next newer one."""


class Popularity:
    """Items by their number of train interactions; equal counts by item index, lowest first."""

    def fit(self, offsets: np.ndarray, events: np.ndarray, num_items: int) -> Self:
        """See `Ranker`."""
        events = check_events(offsets, events, num_items)
        counts = np.bincount(events, minlength=num_items)
        self.order = np.argsort(-counts, kind="stable").astype(np.int32)
        self.place = np.empty(num_items, np.int64)  # place[order[p]] = p
        self.place[self.order] = np.arange(num_items)
        return self

    def rank(self, histories: Histories, k: int, remove_seen: bool) -> np.ndarray:
        """See `Ranker`."""
        offsets, events = histories.offsets, histories.events
        check_events(offsets, events, len(self.order))
        lengths = np.diff(offsets)
        if not remove_seen:
            lengths = np.zeros_like(lengths)
        ranked = np.full((len(lengths), k), EMPTY, np.int32)
        # A history of n events can strike out only n of the k + n most popular items.
        for rows in chunks(k + np.maximum.accumulate(lengths), rankers.CHUNK_ENTRIES):
            width = min(k + int(lengths[rows].max(initial=0)), len(self.order))
            struck = np.zeros((rows.stop - rows.start, width), bool)
            if remove_seen:
                owners = np.repeat(np.arange(len(struck)), lengths[rows])
                places = self.place[events[offsets[rows.start] : offsets[rows.stop]]]
                near = places < width
                struck[owners[near], places[near]] = True
            best = np.argsort(struck, axis=1, kind="stable")[:, :k]
            kept = np.arange(best.shape[1]) < width - struck.sum(axis=1, keepdims=True)
            ranked[rows, : best.shape[1]] = np.where(kept, self.order[best], EMPTY)
        return ranked

    def score(self, histories: Histories, candidates: np.ndarray) -> np.ndarray:
        """See `Ranker`."""
        return -self.place[candidates].astype(float)


class ItemCooccurrence:
    """Items often taken by those who took what is in the history, newest counting most.

        score(x) = Σ_t decay^t · cosine(x, history item t),  t = 0 for the newest,

    with binary user vectors of the train interactions, so that cosine(x, y) = (users of both) /
    √(users of x · users of y): item-based nearest neighbours (Sarwar et al. 2001; Deshpande &
    Karypis 2004) with a recency weight. As in those, an item is not its own neighbour; it matters
    only where seen items stay in. Equal scores are ordered by popularity, then by item index, and
    items of score zero follow in that order.
    """

    def __init__(self, decay: float = DECAY):
        self.decay = decay

    def fit(self, offsets: np.ndarray, events: np.ndarray, num_items: int) -> Self:
        """See `Ranker`."""
        self.popularity = Popularity().fit(offsets, events, num_items)
        # Columns stand in order of popularity, so a tie is settled by the lower column.
        places = self.popularity.place[check_events(offsets, events, num_items)]
        taken = sp.csr_matrix(
            (np.ones(len(places)), (find_owners(offsets), places)),
            shape=(len(offsets) - 1, num_items),
        )
        taken.data[:] = 1  # the constructor adds up what a user took twice
        norms = np.sqrt(np.maximum(np.asarray(taken.sum(axis=0)).ravel(), 1))
        self.by_user = (taken @ sp.diags_array(1 / norms)).tocsr()
        self.by_item = self.by_user.T.tocsr()
        return self

    def rank(self, histories: Histories, k: int, remove_seen: bool) -> np.ndarray:
        """See `Ranker`."""
        offsets, events = histories.offsets, histories.events
        check_events(offsets, events, len(self.popularity.order))
        ranked = np.empty((len(offsets) - 1, k), np.int32)
        for rows in chunks(self._score_entries(offsets, events), rankers.CHUNK_ENTRIES):
            bounds = offsets[rows.start : rows.stop + 1]
            history = events[bounds[0] : bounds[-1]]
            ranked[rows] = self._rank_chunk(bounds - bounds[0], history, k, remove_seen)
        return ranked

    def score(self, histories: Histories, candidates: np.ndarray) -> np.ndarray:
        """See `Ranker`: 0 for the last of the candidates of a history, 1 for the next, …."""
        offsets, events = histories.offsets, histories.events
        check_events(offsets, events, len(self.popularity.order))
        scores = np.empty(candidates.shape)
        for rows in chunks(self._score_entries(offsets, events), rankers.CHUNK_ENTRIES):
            bounds = offsets[rows.start : rows.stop + 1]
            history = events[bounds[0] : bounds[-1]]
            found = self._scores(bounds - bounds[0], history, own=0.0)
            places = self.popularity.place[candidates[rows]]
            owners = np.repeat(np.arange(len(places)), places.shape[1])
            near = np.asarray(found[owners, places.ravel()], np.float32).reshape(places.shape)
            order = np.lexsort((-places, near), axis=1)
            np.put_along_axis(scores[rows], order, np.arange(places.shape[1]), axis=1)
        return scores

    def _score_entries(self, offsets: np.ndarray, events: np.ndarray) -> np.ndarray:
        """An upper bound on the non-zero scores of each history: int64[m]."""
        degrees = np.diff(self.by_user.indptr)
        linked = (self.by_item != 0).astype(np.int64) @ degrees
        linked = np.minimum(linked, len(self.popularity.order))
        bounds = np.r_[0, np.cumsum(linked[self.popularity.place[events]])]
        return bounds[offsets[1:]] - bounds[offsets[:-1]]

    def _rank_chunk(
        self, offsets: np.ndarray, events: np.ndarray, k: int, remove_seen: bool
    ) -> np.ndarray:
        scores = self._scores(offsets, events, own=-np.inf if remove_seen else 0.0)
        ranked = _top(scores, k)
        ranked = np.where(ranked >= 0, self.popularity.order[ranked], EMPTY)
        return self._fill(ranked, offsets, events, remove_seen)

    def _scores(self, offsets: np.ndarray, events: np.ndarray, own: float) -> sp.csr_matrix:
        """Scores of each history: float64[m, num_items], sparse, columns by popularity.

        `own` is an item's likeness to itself. At −∞ it drives whatever the history holds out of
        the positive scores.
        """
        items, rows = np.unique(self.popularity.place[events], return_inverse=True)
        # Of the item-to-item matrix, only the rows that these histories need.
        cosine = (self.by_item[items] @ self.by_user).tocsr()
        of_row = np.repeat(items, np.diff(cosine.indptr))
        cosine.data[cosine.indices == of_row] = own
        weights = self.decay ** count_ages(offsets).astype(float)
        weights = sp.csr_matrix(
            (weights, (find_owners(offsets), rows)), shape=(len(offsets) - 1, len(items))
        )
        return (weights @ cosine).tocsr()

    def _fill(
        self, ranked: np.ndarray, offsets: np.ndarray, events: np.ndarray, remove_seen: bool
    ) -> np.ndarray:
        """Fills the empty slots at the lists' ends with the most popular of the other items."""
        short = np.flatnonzero((ranked == EMPTY).any(axis=1))
        taken = [ranked[row][ranked[row] >= 0] for row in short]
        if remove_seen:
            seen = [events[offsets[row] : offsets[row + 1]] for row in short]
            taken = [np.concatenate(pair) for pair in zip(taken, seen, strict=True)]
        bounds = np.cumsum([0, *map(len, taken)])
        flat = np.concatenate([np.empty(0, np.int64), *taken])
        fill = self.popularity.rank(Histories(bounds, flat), ranked.shape[1], remove_seen=True)
        for row, others in zip(short, fill, strict=True):
            gaps = ranked[row] == EMPTY
            ranked[row, gaps] = others[: np.count_nonzero(gaps)]
        return ranked


def _top(scores: sp.csr_matrix, k: int) -> np.ndarray:
    """The columns of the k highest positive scores of each row, ties to the lower column.

    Scores are compared as float32: sums that are equal but for the order of adding differ in
    float64, and would make ties depend on the machine.

    Args:
      scores: sparse float64[m, n].
      k: how many.

    Returns:
      int64[m, k], best first, −1 where fewer than k scores are positive.
    """
    # The bits of positive floats order as the floats do. With the column below them, all keys of
    # a row differ, and one partition settles score and tie at once.
    lowest = np.uint64(2**32 - 1)
    bits = scores.data.astype(np.float32).view(np.uint32).astype(np.uint64)
    keys = (bits << np.uint64(32)) | (lowest - scores.indices.astype(np.uint64))
    keys[~(scores.data > 0)] = 0
    best = np.zeros((scores.shape[0], k), np.uint64)
    for row, (start, stop) in enumerate(zip(scores.indptr, scores.indptr[1:], strict=False)):
        own = keys[start:stop]
        if len(own) > k:
            own = np.partition(own, len(own) - k)[-k:]
        best[row, : len(own)] = np.sort(own)[::-1]
    columns = (lowest - (best & lowest)).astype(np.int64)
    return np.where(best > 0, columns, EMPTY)
