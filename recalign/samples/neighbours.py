"""What others bought near the newest items of a history, for a question to name.

A network of a few million parameters, trained with dropout, does not remember that two items were
once bought one after the other; whoever counts does. A question that says so spares it.

A neighbour counts by how near it stood, and a quarter where it came before instead of after. In
training a user's own events are left out of the counts, as nobody knows them when the question is
asked of a new one; otherwise the answer would be among what it reads.
"""

import functools
import itertools

import numpy as np
import scipy.sparse
import tensorflow as tf

from recalign.domains import Domain

REACH = 8
"""Events further apart are no neighbours."""
# Between what names validation's items best on Amazon's Beauty (4, 0.5) and Toys (8, 0.7).
ASKED, FADING = 6, 0.6
"""Of so many of a history's newest items the neighbours count, each less than those of the next."""
KEPT = 32
"""So many neighbours of an item count, the strongest."""
_BLOCK = 1 << 18
"""Events whose neighbours are counted at a time: pairs are 2 · REACH times as many."""

# What an event that comes d after another counts, by d + REACH; whole numbers, which a user's own
# can be taken from and leave nothing.
_DISTANCES = np.arange(-REACH, REACH + 1)
_WEIGHTS = np.where(_DISTANCES > 0, 4, 1) * (REACH + 1 - abs(_DISTANCES)) * (_DISTANCES != 0)


class Neighbours:
    """Finds the neighbours of a history.

    Args:
      domain: whose train events are counted.
      number: at most so many are found.
    """

    def __init__(self, domain: Domain, number: int):
        starts, items, counts, totals = count_neighbours(domain)
        self._items, self._counts = (
            tf.RaggedTensor.from_row_splits(each, starts) for each in (items, counts)
        )
        self._totals, self._number = tf.constant(totals), number

    def __call__(self, history: tf.Tensor, touched: tf.Tensor, train: tf.Tensor) -> tf.Tensor:
        """The strongest neighbours of a history's newest items, the strongest first, int32[m].

        Args:
          history: int32[h], oldest first; none of its items is found.
          touched: int32[t], all that the user's record holds.
          train: bool[], whether the counts are of this user's events too, which are left out then.
        """
        newest = history[-ASKED:][::-1]
        items, counts = (
            tf.gather(each, newest).to_tensor() for each in (self._items, self._counts)
        )
        own, own_total = _count_own(newest, items, touched)
        # Never below 0: what fills the list of an item that has few is no neighbour.
        counts = tf.maximum(counts - tf.where(train, own, 0), 0)
        totals = tf.gather(self._totals, newest) - tf.where(train, own_total, 0)
        items, counts = _keep_strongest(items, counts)
        ages = tf.cast(tf.range(tf.size(newest)), tf.float32)
        # An item that many have bought says less of what goes with it.
        scale = FADING**ages / tf.sqrt(tf.cast(totals, tf.float32) + 1.0)
        scores = tf.reshape(tf.cast(counts, tf.float32) * scale[:, None], [-1])
        items = tf.reshape(items, [-1])
        bought = tf.reduce_any(items[:, None] == history, axis=1)
        scores = tf.where(bought, 0.0, scores)
        found = tf.unique(items).y
        sums = tf.reduce_sum(tf.where(found[:, None] == items, scores, 0.0), axis=1)
        best = tf.math.top_k(sums, tf.minimum(self._number, tf.size(found)))
        return tf.boolean_mask(tf.gather(found, best.indices), best.values > 0)


@functools.lru_cache(maxsize=2)
def count_neighbours(domain: Domain) -> tuple[np.ndarray, ...]:
    """How often items stand near each other in train, nearer ones counting more.

    Returns:
      Where the list of each of n items begins and the last one's ends, int64[n + 1]; the strongest
      neighbours in these lists, int32[p], the first the strongest; their counts, int32[p]; and the
      sum of the counts of all neighbours of each item, int32[n].
    """
    offsets, events = domain.train()
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    # The places of each item, of one user after those of another.
    places = np.argsort(events, kind="stable")
    begins = np.append(0, np.cumsum(np.bincount(events, minlength=domain.num_items)))
    full = np.searchsorted(begins[1:], np.arange(_BLOCK, len(events), _BLOCK))
    parts = [
        _count_block(users, events, places[begins[first] : begins[end]], first, end)
        for first, end in itertools.pairwise(np.unique([0, *full, domain.num_items]))
    ]
    lengths, *found = (np.concatenate(each) for each in zip(*parts, strict=True))
    return np.append(0, np.cumsum(lengths)), *found


def _count_block(
    users: np.ndarray, events: np.ndarray, at: np.ndarray, first: int, end: int
) -> tuple[np.ndarray, ...]:
    """Counts what stands near the items from `first` to before `end`, bought `at` these places.

    Returns:
      The lengths of their lists, the lists' items and counts, and the sums of all counts.
    """
    counts = scipy.sparse.csr_matrix((end - first, events.max() + 1), dtype=np.int64)
    for distance, weight in zip(_DISTANCES, _WEIGHTS, strict=True):
        near = np.clip(at + distance, 0, len(events) - 1)
        is_near = (near == at + distance) & (users[near] == users[at])
        is_near &= events[near] != events[at]
        pairs = events[at][is_near] - first, events[near][is_near]
        counts += scipy.sparse.csr_matrix((np.full(len(pairs[0]), weight), pairs), counts.shape)
    # Near what a user has bought once stand at most 2 · REACH others: without his events its KEPT
    # strongest neighbours are among so many more.
    starts = np.flatnonzero(np.diff(events[at], prepend=-1) | np.diff(users[at], prepend=-1))
    most = np.zeros(end - first, np.int64)
    np.maximum.at(most, events[at][starts] - first, np.diff(starts, append=len(at)))
    table = counts.tocoo()
    order = np.lexsort((table.col, -table.data, table.row))
    rows = table.row[order]
    ranks = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = order[ranks < KEPT + 2 * REACH * most[rows]]
    found = (
        np.bincount(table.row[kept], minlength=end - first),
        table.col[kept],
        table.data[kept],
        np.asarray(counts.sum(axis=1)).ravel(),
    )
    return tuple(each.astype(np.int32) for each in found)


def _keep_strongest(items: tf.Tensor, counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The KEPT of each row, int32[k, ≤ KEPT], that count most; of two that are level, the lower."""
    number = tf.cast(tf.reduce_max(items) + 1, tf.int64)
    order = tf.cast(counts, tf.int64) * number - tf.cast(items, tf.int64)
    strongest = tf.math.top_k(order, tf.minimum(KEPT, tf.shape(order)[1])).indices
    return tuple(tf.gather(each, strongest, batch_dims=1) for each in (items, counts))


def _count_own(
    newest: tf.Tensor, items: tf.Tensor, touched: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """What one user's events add to the counts of some items, int32[k, l], and to their sums."""
    at = tf.cast(newest[:, None] == touched, tf.int32)
    # What an event at each place of the sequence adds, int32[k, t].
    around = tf.signal.frame(tf.pad(at, [[0, 0], [REACH, REACH]]), 2 * REACH + 1, 1)
    adds = tf.reduce_sum(around * tf.constant(_WEIGHTS[::-1].copy(), tf.int32), axis=-1)
    own = tf.where(items[:, :, None] == touched, adds[:, None], 0)
    return tf.reduce_sum(own, axis=-1), tf.reduce_sum(adds * (1 - at), axis=-1)
