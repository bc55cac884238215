"""What a baseline of next-item prediction is, and what those that give dense scores share.

Sequences and histories are CSR pairs: sequence s is `events[offsets[s] : offsets[s + 1]]`, item
indices, oldest first.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple, Protocol, Self

import numpy as np

from recalign.evaluation.metrics import EMPTY

CHUNK_ENTRIES = 8_000_000
"""Score entries held at once, each 4 to 24 bytes: a few hundred MB, whatever the catalogue."""


class Histories(NamedTuple):
    """What m examples know; a `Split` of a domain has the same attributes.

    Attributes:
      offsets: int64[m + 1].
      events: int[offsets[m]], item indices, oldest first.
      users: int[m], whose histories they are, as numbers of train sequences; None where that is
        not known. Only rankers with a vector for each user ask for it.
    """

    offsets: np.ndarray
    events: np.ndarray
    users: np.ndarray | None = None


class Ranker(Protocol):
    """A baseline: fitted on train sequences, it ranks the catalogue or scores candidates."""

    def fit(self, offsets: np.ndarray, events: np.ndarray, num_items: int) -> Self:
        """Learns from whole train sequences, one for each user.

        Args:
          offsets: int[users + 1].
          events: int[n], item indices 0 … num_items−1.
          num_items: size of the catalogue.
        """

    def rank(self, histories: Histories, k: int, remove_seen: bool) -> np.ndarray:
        """Ranks the catalogue for each history.

        Args:
          histories: m of them.
          k: length of the lists.
          remove_seen: leaves the items of a history out of its list.

        Returns:
          int32[m, k], item indices, best first; −1 where the catalogue is used up.
        """

    def score(self, histories: Histories, candidates: np.ndarray) -> np.ndarray:
        """Scores some candidates for each history, in the order of `rank` with seen items left in.

        Args:
          histories: m of them.
          candidates: int[m, C], item indices.

        Returns:
          float[m, C], higher is better; comparable within a row only.
        """


class DenseRanker:
    """A ranker that scores the whole catalogue for each history, a chunk of histories at a time.

    Equal scores are ordered by item index. A subclass gives the scores.
    """

    def score_chunks(self, histories: Histories) -> Iterator[tuple[slice, np.ndarray]]:
        """Scores of all items, float32[rows, N], for one slice of the histories after another.

        The arrays may be overwritten by whoever takes them.
        """
        raise NotImplementedError

    def rank(self, histories: Histories, k: int, remove_seen: bool) -> np.ndarray:
        """See `Ranker`."""
        ranked = np.empty((len(histories.offsets) - 1, k), np.int32)
        for rows, scores in self._scores(histories, remove_seen):
            ranked[rows] = best_items(scores, k)
        return ranked

    def score(self, histories: Histories, candidates: np.ndarray) -> np.ndarray:
        """See `Ranker`."""
        found = np.empty(candidates.shape, np.float32)
        for rows, scores in self.score_chunks(histories):
            found[rows] = np.take_along_axis(scores, candidates[rows], axis=1)
        return found

    def unseen_ndcg(self, histories: Histories, targets: np.ndarray) -> float:
        """NDCG@10 with seen items removed, without making lists: what choices are made by.

        Equal scores count against the target, as among candidates; a target that stands in its
        own history is a miss.
        """
        ranks = np.empty(len(targets))
        for rows, scores in self._scores(histories, remove_seen=True):
            own = np.take_along_axis(scores, targets[rows, None], axis=1)
            count = (scores >= own).sum(axis=1)
            ranks[rows] = np.where(own[:, 0] > -np.inf, count, np.inf)
        return float(np.mean(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0)))

    def _scores(
        self, histories: Histories, remove_seen: bool
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Scores float32[rows, N], a chunk of histories at a time; −∞ at what is removed."""
        for rows, scores in self.score_chunks(histories):
            if remove_seen:
                make_seen_impossible(scores, histories, rows)
            yield rows, scores


class VectorRanker(DenseRanker):
    """A ranker whose scores are products of a vector for each history with one for each item.

    A subclass sets `items`, float32[N, D], in `fit`.
    """

    items: np.ndarray

    def vectors(self, histories: Histories) -> np.ndarray:
        """The vectors float32[m, D] of histories."""
        raise NotImplementedError

    def score_chunks(self, histories: Histories) -> Iterator[tuple[slice, np.ndarray]]:
        """See `DenseRanker`."""
        items = self.items
        check_events(histories.offsets, histories.events, len(items))
        vectors = self.vectors(histories)
        for rows in chunks(np.full(len(vectors), len(items)), CHUNK_ENTRIES):
            yield rows, vectors[rows] @ items.T

    def score(self, histories: Histories, candidates: np.ndarray) -> np.ndarray:
        """See `Ranker`."""
        vectors, items = self.vectors(histories), self.items
        scores = np.empty(candidates.shape, np.float32)
        for rows in chunks(np.full(len(scores), vectors.shape[1] * scores.shape[1]), CHUNK_ENTRIES):
            np.einsum("md,mcd->mc", vectors[rows], items[candidates[rows]], out=scores[rows])
        return scores


def check_events(offsets: np.ndarray, events: np.ndarray, num_items: int) -> np.ndarray:
    """The events that the offsets span, which must be all of them and items."""
    if offsets[0] != 0 or offsets[-1] != len(events):
        raise ValueError(f"offsets {offsets[0]} … {offsets[-1]} do not span {len(events)} events")
    if len(events) and not 0 <= events.min() <= events.max() < num_items:
        raise ValueError(
            f"events must be items 0 … {num_items - 1}; got {events.min()} … {events.max()}"
        )
    return events


def find_owners(offsets: np.ndarray) -> np.ndarray:
    """The sequence that each event is of, int64[events]; offsets int[n + 1]."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def count_ages(offsets: np.ndarray) -> np.ndarray:
    """How many events of its sequence are newer than each event, int64[events]."""
    return offsets[1:][find_owners(offsets)] - 1 - np.arange(offsets[-1])


def make_seen_impossible(scores: np.ndarray, histories: Histories, rows: slice) -> None:
    """Sets the scores float[rows, N] of what some rows of the histories hold to −∞, in place."""
    bounds = histories.offsets[rows.start : rows.stop + 1]
    scores[find_owners(bounds), histories.events[bounds[0] : bounds[-1]]] = -np.inf


def chunks(costs: np.ndarray, budget: int) -> list[slice]:
    """Cuts rows into runs whose costs add up to the budget at most, or single rows."""
    spent = np.concatenate([[0], np.cumsum(costs)])
    cuts = [0]
    while cuts[-1] < len(costs):
        most = np.searchsorted(spent, spent[cuts[-1]] + budget, side="right") - 1
        cuts.append(max(int(most), cuts[-1] + 1))
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]


def best_items(scores: np.ndarray, k: int) -> np.ndarray:
    """The k best items of each row, int32[m, k], as `Ranker.rank` has them; −∞ is impossible."""
    best = best_columns(scores, min(k, scores.shape[1]))
    possible = np.take_along_axis(scores, best, axis=1) > -np.inf
    ranked = np.full((len(scores), k), EMPTY, np.int32)
    ranked[:, : best.shape[1]] = np.where(possible, best, EMPTY)
    return ranked


def best_columns(scores: np.ndarray, k: int) -> np.ndarray:
    """The columns of the k highest scores of each row, ties to the lower one: int64[m, k]."""
    last = scores.shape[1] - k
    chosen = scores >= np.partition(scores, last, axis=1)[:, last, None]
    # Of several scores that tie for the last place, the lowest columns have it.
    tied = np.flatnonzero(chosen.sum(axis=1) > k)
    if len(tied):
        level = scores[tied] == scores[tied].min(
            axis=1, where=chosen[tied], initial=np.inf, keepdims=True
        )
        above = chosen[tied] & ~level
        room = k - above.sum(axis=1, keepdims=True)
        chosen[tied] = above | (level & (np.cumsum(level, axis=1) <= room))
    columns = np.nonzero(chosen)[1].reshape(-1, k)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)
