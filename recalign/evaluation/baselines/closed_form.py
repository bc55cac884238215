"""Linear item-to-item rankers that are solved for, not trained: EASE, SLIT and TALE.

Each holds one matrix B [N, N] over the catalogue, so that memory grows with its square; it is asked
for before it is taken. What they may choose, they choose by NDCG@10 on validation.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import psutil
import scipy.linalg
import scipy.sparse as sp

from recalign.errors import UserError
from recalign.evaluation.baselines.rankers import (
    CHUNK_ENTRIES,
    DenseRanker,
    Histories,
    check_events,
    chunks,
    count_ages,
    find_owners,
)
from recalign.progress import track

log = logging.getLogger(__name__)

MATRICES = 4
"""So many float32[N, N] are held at once: a Gram matrix, its inverse, a B and the best so far."""

LONGEST_PREFIX = 50
"""Of a longer prefix SLIT reads the newest items alone: its cost grows with the square of this."""

JUDGED = 5_000
"""So many validation histories, the first ones, are enough to choose by."""


class _Choice(NamedTuple):
    """A solution, what it was solved with, and how well it does."""

    ndcg: float
    setting: tuple[float, ...]
    decay: float
    weights: np.ndarray | None


class ItemToItem(DenseRanker):
    """Scores are sums of rows of a matrix: Σ_t decay^t · B[history item t], t = 0 for the newest.

    Args:
      validation: histories to choose by.
      targets: int[m], their next items.
      decays: to choose from.
    """

    FITTED = ("weights", "decay", "setting")

    weights: np.ndarray
    decay: float
    setting: tuple[float, ...]

    def __init__(self, validation: Histories, targets: np.ndarray, decays: Sequence[float]):
        judged = min(JUDGED, len(targets))
        offsets = validation.offsets[: judged + 1]
        self._validation = Histories(offsets, validation.events[: offsets[-1]])
        self._targets = targets[:judged]
        self._decays = tuple(decays)

    def score_chunks(self, histories: Histories) -> Iterator[tuple[slice, np.ndarray]]:
        """See `DenseRanker`."""
        offsets, events = histories.offsets, histories.events
        num_items = len(self.weights)
        check_events(offsets, events, num_items)
        shape = (len(offsets) - 1, num_items)
        weights = self.decay ** count_ages(offsets).astype(float)
        read = _matrix(weights, find_owners(offsets), events, shape)
        for rows in chunks(np.full(shape[0], num_items), CHUNK_ENTRIES):
            yield rows, read[rows] @ self.weights

    def _take_memory(self, num_items: int) -> None:
        name, needed = type(self).__name__, check_memory(num_items, type(self).__name__)
        log.info("%s over %d items takes %.1f GiB of memory", name, num_items, needed / 2**30)

    def _choose(self, solve: Callable[..., np.ndarray], *options: Sequence[float]) -> Self:
        """Takes the best B of those that are solved for.

        Args:
          solve: gives a B for one option of each parameter.
          *options: of each parameter, which are tried in turn: with the first ones of the
            parameters after it, and the best ones of those before it.
        """
        name, best = type(self).__name__, None
        setting = tuple(first for first, *_ in options)
        for place, values in enumerate(options):
            for value in track(values if best is None else values[1:], name, "solve"):
                tried = (*setting[:place], value, *setting[place + 1 :])
                self.weights = solve(*tried)
                for decay in self._decays:
                    self.decay = decay
                    ndcg = self.unseen_ndcg(self._validation, self._targets)
                    log.info("%s %s, decay %.3f: validation %.5f", name, tried, decay, ndcg)
                    if best is None or ndcg > best.ndcg:
                        best = _Choice(ndcg, tried, decay, self.weights)
            setting = best.setting
        _, self.setting, self.decay, self.weights = best
        return self


class EASE(ItemToItem):
    """Embarrassingly shallow autoencoder (Steck, WWW 2019, arXiv:1905.03375).

        B = I − P · diag(1 / diag(P)),  P = (XᵀX + λI)⁻¹,

    with X the binary user-by-item matrix of train interactions; the diagonal of B is zero.

    Args:
      validation: histories to choose λ and the decay by.
      targets: int[m], their next items.
      penalties: the λ to choose from.
      decays: of older items of a history; the paper's has none, 1.
    """

    def __init__(
        self,
        validation: Histories,
        targets: np.ndarray,
        penalties: Sequence[float] = (50.0, 200.0, 800.0),
        decays: Sequence[float] = (0.6, 1.0),
    ):
        super().__init__(validation, targets, decays)
        self._penalties = tuple(penalties)

    def fit(self, offsets: np.ndarray, events: np.ndarray, num_items: int) -> Self:
        """See `Ranker`.

        Raises:
          UserError: the matrices do not fit into memory.
        """
        self._take_memory(num_items)
        check_events(offsets, events, num_items)
        shape = (len(offsets) - 1, num_items)
        taken = _matrix(np.ones(len(events)), find_owners(offsets), events, shape)
        taken.data[:] = 1  # what a user took twice was added up
        gram = taken.T @ taken

        def solve(penalty: float) -> np.ndarray:
            inverse = _inverse(gram, penalty)
            inverse /= -np.diag(inverse)
            np.fill_diagonal(inverse, 0)
            return inverse

        return self._choose(solve, self._penalties)


class SLIT(ItemToItem):
    """Next items regressed on what came before them, newest counting most.

    For every proper prefix of a train sequence there is one row: S holds its items, the k-th newest
    weighted by max(exp(−k / τ), c), T the item that came next. Then

        B = (SᵀS + λI)⁻¹ SᵀT,  score(x) = Σ_k exp(−k / τ′) · B[k-th newest, x].

    That is the transition part of SLIST (Choi et al., WWW 2021, arXiv:2103.16104), trained on
    single targets and with a floor c under its decay as in `TALE`. Distances are counted in events.

    Args:
      validation: histories to choose λ, τ and τ′ by.
      targets: int[m], their next items.
      penalties: the λ to choose from, with the first of `spans`.
      spans: the τ to choose from, with the best λ.
      reading_spans: the τ′ to choose from, for each B.
      floor: c.
    """

    def __init__(
        self,
        validation: Histories,
        targets: np.ndarray,
        penalties: Sequence[float] = (10.0, 40.0),
        spans: Sequence[float] = (2.0, 5.0),
        reading_spans: Sequence[float] = (1.0, 2.0, 4.0),
        floor: float = 0.1,
    ):
        super().__init__(validation, targets, [float(np.exp(-1 / span)) for span in reading_spans])
        self._penalties, self._spans, self._floor = tuple(penalties), tuple(spans), floor

    def fit(self, offsets: np.ndarray, events: np.ndarray, num_items: int) -> Self:
        """See `Ranker`.

        Raises:
          UserError: the matrices do not fit into memory.
        """
        self._take_memory(num_items)
        rows, items, ages, targets = prefixes(offsets, check_events(offsets, events, num_items))
        shape = (len(targets), num_items)
        came_next = _matrix(np.ones(len(targets)), np.arange(len(targets)), targets, shape)

        def solve(penalty: float, span: float) -> np.ndarray:
            read = _matrix(np.maximum(np.exp(-ages / span), self._floor), rows, items, shape)
            return _regression(read, came_next, penalty)

        return self._choose(solve, self._penalties, self._spans)


class TALE(ItemToItem):
    """Next items regressed on what came before them, by the time that lies between.

    TALE (Park et al., WSDM 2025, arXiv:2412.07382): as `SLIT`, with one row for every proper prefix
    of a train sequence, but S has max(exp(−Δ / τ), c) · p^β of an item that was taken Δ before the
    next one, and T has p^β of the next one. p is the item's trend: how often it was taken in the
    `window` that ends with that event, in train. So a recent neighbour says more than an old one,
    and β < 0 takes from items what they owe to their vogue. Histories are read by order, as there.

    Args:
      validation: histories to choose λ, τ, c and τ′ by.
      targets: int[m], their next items.
      times: [n], of the train events that `fit` is given, in days.
      penalties: the λ to choose from, with the first of `spans` and of `floors`.
      spans: the τ to choose from, in days, with the best λ.
      floors: the c to choose from, with the best λ and τ.
      reading_spans: the τ′ to choose from, for each B.
      power: β, the authors'.
      window: in days, the authors'.
    """

    def __init__(
        self,
        validation: Histories,
        targets: np.ndarray,
        times: np.ndarray,
        penalties: Sequence[float] = (10.0, 40.0),
        spans: Sequence[float] = (0.5, 30.0),
        floors: Sequence[float] = (0.4, 0.1),
        reading_spans: Sequence[float] = (1.0, 2.0, 4.0),
        power: float = -0.01,
        window: float = 180.0,
    ):
        super().__init__(validation, targets, [float(np.exp(-1 / span)) for span in reading_spans])
        self._times, self._power, self._window = times, power, window
        self._penalties, self._spans, self._floors = tuple(penalties), tuple(spans), tuple(floors)

    def fit(self, offsets: np.ndarray, events: np.ndarray, num_items: int) -> Self:
        """See `Ranker`.

        Raises:
          UserError: the matrices do not fit into memory.
        """
        self._take_memory(num_items)
        rows, entries, nexts = _prefix_entries(offsets, check_events(offsets, events, num_items))
        shape = (len(nexts), num_items)
        gaps = np.abs(self._times[nexts][rows] - self._times[entries])
        trends = trend(events, self._times, self._window).astype(float) ** self._power
        every = np.arange(len(nexts))
        came_next = _matrix(trends[nexts], every, events[nexts], shape)

        def solve(penalty: float, span: float, floor: float) -> np.ndarray:
            values = np.maximum(np.exp(-gaps / span), floor) * trends[entries]
            read = _matrix(values, rows, events[entries], shape)
            return _regression(read, came_next, penalty)

        return self._choose(solve, self._penalties, self._spans, self._floors)


def fill_times(offsets: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Times without NaN: an event that lacks one has that of the known event before it.

    Else that of the one after it, else the median of all, so that no time lies between events of
    which it is not known.

    Args:
      offsets: int[n + 1]; sequence s is `times[offsets[s]:offsets[s + 1]]`, oldest first.
      times: [offsets[n]], NaN where unknown.

    Returns:
      float64[offsets[n]].
    """
    sequences = find_owners(offsets)
    known = pd.Series(times, dtype=float)
    filled = known.groupby(sequences).ffill().groupby(sequences).bfill()
    return filled.fillna(known.median()).to_numpy()


def trend(events: np.ndarray, times: np.ndarray, window: float) -> np.ndarray:
    """How often the item of each event was taken in the `window` that ends with it: int64[n].

    Args:
      events: int[n], item indices.
      times: [n], when.
      window: of the unit of `times`; its first moment belongs to it.
    """
    if not len(events):
        return np.zeros(0, np.int64)
    # One axis for all items: the times of each lie further apart from the next one's than a window.
    stretch = times.max() - times.min() + window + 1
    place = events.astype(np.int64) * stretch + (times - times.min())
    known = np.sort(place)
    upto = np.searchsorted(known, place, side="right")
    return upto - np.searchsorted(known, place - window, side="left")


def prefixes(
    offsets: np.ndarray, events: np.ndarray, longest: int = LONGEST_PREFIX
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The entries of every proper prefix of every sequence, and the item after each prefix.

    Args:
      offsets: int[n + 1]; sequence s is `events[offsets[s]:offsets[s + 1]]`, oldest first.
      events: int[…], item indices.
      longest: so many newest items of a prefix are read.

    Returns:
      Of each entry its prefix, its item and its age, 0 for the newest, int64[e] each; of each
      prefix the next item, int[p].
    """
    rows, entries, nexts = _prefix_entries(offsets, events, longest)
    return rows, events[entries], nexts[rows] - 1 - entries, events[nexts]


def _prefix_entries(
    offsets: np.ndarray, events: np.ndarray, longest: int = LONGEST_PREFIX
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `prefixes`: of each entry its prefix and its event, of each prefix the event after it."""
    within = np.arange(len(events)) - np.repeat(offsets[:-1], np.diff(offsets))
    nexts = np.flatnonzero(within)  # every item but the first of a sequence follows a prefix
    lengths = np.minimum(within[nexts], longest)
    rows = np.repeat(np.arange(len(nexts)), lengths)
    ages = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return rows, nexts[rows] - 1 - ages, nexts


def check_memory(num_items: int, name: str) -> int:
    """The bytes that a closed form over a catalogue takes; refuses what the machine lacks.

    Raises:
      UserError: too large; what would fit is said.
    """
    needed = MATRICES * 4 * num_items**2
    free = psutil.virtual_memory().available
    if needed > free:
        fits = int((free / (4 * MATRICES)) ** 0.5)
        raise UserError(
            f"{name} over {num_items} items takes {needed / 2**30:.1f} GiB of memory, of which "
            f"{free / 2**30:.1f} are free: it fits catalogues of up to {fits} items. Choose "
            "another baseline, such as cooccurrence, or prepare the domain with fewer items"
        )
    return needed


def _regression(read: sp.csr_array, came_next: sp.csr_array, penalty: float) -> np.ndarray:
    """(SᵀS + λI)⁻¹ SᵀT, float32[N, N], C-contiguous."""
    inverse = _inverse(read.T @ read, penalty)  # symmetric
    return np.ascontiguousarray(((came_next.T @ read) @ inverse).T)


def _inverse(gram: sp.sparray, penalty: float) -> np.ndarray:
    """(G + λI)⁻¹ of a sparse positive semi-definite G, float32[N, N], by Cholesky."""
    dense = np.asfortranarray(gram.astype(np.float32).toarray())
    dense[np.diag_indices_from(dense)] += penalty
    factor, failed = scipy.linalg.lapack.spotrf(dense, lower=True, overwrite_a=True)
    if failed:
        raise np.linalg.LinAlgError(f"G + {penalty} I is not positive definite")
    inverse, _ = scipy.linalg.lapack.spotri(factor, lower=True, overwrite_c=True)
    # LAPACK writes one triangle of what it lays out by columns.
    for start in range(0, len(inverse), 1024):
        block, after = slice(start, start + 1024), slice(start + 1024, None)
        lower = np.tril(inverse[block, block])
        inverse[block, block] = lower + np.tril(lower, -1).T
        inverse[block, after] = inverse[after, block].T
    return inverse.T


def _matrix(
    values: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> sp.csr_array:
    """A sparse float32 matrix; what is named twice is added up."""
    return sp.csr_array((values.astype(np.float32), (rows, columns)), shape=shape)
