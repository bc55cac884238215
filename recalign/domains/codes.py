"""Ids with meaning: an item is a few codes, and items that are alike share some of them.

The codes are those of a quantiser of the items' vectors: residual k-means, of which each level
quantises what the levels before leave over (as the RQ-VAE of TIGER, Rajput et al.,
arXiv:2305.05065, without its network), or product k-means, of which each level has a part of the
dimensions (Jégou et al. 2011). Vectors and codes know the item table and train events alone.
"""

import dataclasses
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import scipy.sparse

from recalign.domains import vectors
from recalign.errors import UserError

RKMEANS, PQ = "rkmeans", "pq"
METHODS = (PQ, RKMEANS)
FILE_NAME = "item_codes.npz"
LEVELS, CODES = 3, 256  # by default
SIZE = 64  # components of the vectors that are quantised
# Iterations of k-means, at most: later ones move next to nothing.
ITERATIONS = 100
# So many counters there are at least, so that items that come later may share codes.
COUNTERS = 16
# An item that nobody bought is where so many items of the nearest texts are.
NEIGHBOURS = 5
_STREAM = 3  # of random numbers, apart from those of `Domain`
_BLOCK = 1024  # rows at once


@dataclasses.dataclass(frozen=True, eq=False)
class Codes:
    """The codes of a catalogue of n items in m levels of k codes.

    Attributes:
      codes: int32[n, m].
      counters: int32[n], tells items of the same codes apart; -1 where no other item has them, so
        that no id is the beginning of another.
      codebooks: float32[m, k, d], the centres of each level; where it has a part of the dimensions
        alone, the others are 0.
    """

    codes: np.ndarray
    counters: np.ndarray
    codebooks: np.ndarray

    def texts(self) -> np.ndarray:
        """Object array of str[n], such as "<a_17><b_203><c_9>" or, where others share it, "…<d_0>".

        A level's codes are a letter's, and the next letter's are the counters.
        """
        columns = np.concatenate([self.codes, self.counters[:, None]], axis=1).tolist()
        names = [
            "".join(_token(level, code) for level, code in enumerate(row) if code >= 0)
            for row in columns
        ]
        return np.array(names, dtype=object)

    def centres(self) -> np.ndarray:
        """What the codes say of the vectors, float32[n, d]: the sum of their centres."""
        levels = range(len(self.codebooks))
        return sum(self.codebooks[level][self.codes[:, level]] for level in levels)

    def extend(self, rows: np.ndarray) -> Self:
        """The codes with those of further vectors, which change no id and need no other piece.

        They are the nearest that are free, or that several items share already: an id without a
        counter would be the beginning of a new one.

        Args:
          rows: float[k, d].

        Raises:
          UserError: no codes are free, and all counters are used.
        """
        counters = max(COUNTERS, int(self.counters.max()) + 1)
        used: dict[tuple[int, ...], int] = {}  # the next counter of codes that items have
        for own, counter in zip(map(tuple, self.codes.tolist()), self.counters, strict=True):
            used[own] = max(used.get(own, 0), counter + 1 if counter >= 0 else counters)
        found = []
        for row in rows:
            near = _nearest_first(self.codebooks, row.astype(np.float64))
            own = next((each for each in near if used.get(each, 0) < counters), None)
            if own is None:
                raise UserError("no codes are left for a new item: prepare with more (--id_codes)")
            found.append((*own, used.get(own, -1)))
            used[own] = used[own] + 1 if own in used else counters
        columns = np.array(found, np.int32).reshape(-1, self.codes.shape[1] + 1)
        return type(self)(
            np.concatenate([self.codes, columns[:, :-1]]),
            np.concatenate([self.counters, columns[:, -1]]),
            self.codebooks,
        )

    def pieces(self) -> list[str]:
        """All that ids may be written in, as SentencePiece has it: ids stand after spaces."""
        levels, number, _ = self.codebooks.shape
        counters = max(COUNTERS, int(self.counters.max()) + 1)
        sizes = [number] * levels + [counters]
        return [
            ("" if level else "\u2581") + _token(level, code)
            for level, size in enumerate(sizes)
            for code in range(size)
        ]

    def describe(self) -> dict:
        """What `statistics.json` says: how many items share their codes, and how codes are used.

        `collision_rate` is the share of items whose codes another item has too, `largest_group` how
        many items have the same at most; of each level, `used` codes and their `perplexity`, the
        exponential of the entropy, which is the number of codes where all are equally often used.
        """
        groups = np.unique(self.codes, axis=0, return_counts=True)[1]
        levels = []
        for column in self.codes.T:
            share = np.unique(column, return_counts=True)[1] / len(column)
            perplexity = float(np.exp(-np.sum(share * np.log(share))))
            levels.append({"used": len(share), "perplexity": round(perplexity, 2)})
        return {
            "collision_rate": round(float(groups[groups > 1].sum() / len(self.codes)), 6),
            "largest_group": int(groups.max()),
            "levels": levels,
        }

    def save(self, folder: Path) -> None:
        """Writes the file that `load` reads."""
        np.savez(folder / FILE_NAME, **vars(self))

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The codes of a prepared domain, local or in a bucket; None where it has none."""
        path = folder / FILE_NAME
        if not path.exists():
            return None
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            return cls(**stored)


def _token(level: int, code: int) -> str:
    return f"<{chr(ord('a') + level)}_{code}>"


def make(method: str, rows: np.ndarray, levels: int, number: int, seed: int) -> Codes:
    """Codes of items by their vectors.

    Args:
      method: one of `METHODS`.
      rows: float[n, d], see `known_vectors`.
      levels: m.
      number: k, codes a level.
      seed: the same one gives the same codes.

    Raises:
      UserError: there are fewer items than codes, or fewer dimensions than levels of a product.
    """
    asked = f"--id_codes {levels}x{number}"
    if len(rows) < number:
        raise UserError(
            f"{asked}: the catalogue has {len(rows):,} items, fewer than the {number:,} codes of a "
            f"level; {levels}x{max(len(rows) // 4, 1)} would give each code some items"
        )
    if method == PQ and rows.shape[1] < levels:
        raise UserError(
            f"{asked}: vectors of {rows.shape[1]} numbers cannot be parted into {levels} levels"
        )
    stream = np.random.default_rng((seed, _STREAM))
    centres = _product if method == PQ else _residual
    codebooks = centres(rows.astype(np.float32), levels, number, stream).astype(np.float32)
    codes = nearest(codebooks, rows)
    return Codes(codes, _count(codes), codebooks)


def nearest(codebooks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The codes of vectors float[n, d], int32[n, m]: of each level the centre that is nearest.

    A level sees what those before have left over; of a product, that is its own dimensions.
    """
    left = rows.astype(np.float64)
    codes = np.zeros((len(rows), len(codebooks)), np.int32)
    for level, centres in enumerate(codebooks.astype(np.float64)):
        own = centres.any(axis=0)  # a product's other dimensions say nothing
        squares = np.square(centres).sum(axis=1)
        for start in range(0, len(left), _BLOCK):
            block = left[start : start + _BLOCK]
            found = (squares - 2 * block[:, own] @ centres[:, own].T).argmin(axis=1)
            codes[start : start + _BLOCK, level] = found
        left = left - centres[codes[:, level]]
    return codes


def _nearest_first(books: np.ndarray, row: np.ndarray) -> Iterator[tuple[int, ...]]:
    """All codes of a vector float64[d], from the nearest on, of which the last vary fastest."""
    if not len(books):
        yield ()
        return
    own = books[0].any(axis=0)
    for code in np.square(row[own] - books[0][:, own]).sum(axis=1).argsort(kind="stable").tolist():
        for others in _nearest_first(books[1:], row - books[0][code]):
            yield (code, *others)


def mean_of_nearest(
    texts: scipy.sparse.csr_matrix, others: scipy.sparse.csr_matrix, rows: np.ndarray
) -> np.ndarray:
    """For each text the mean of the rows of the `NEIGHBOURS` nearest others, float64[m, d].

    Args:
      texts: float64[m, words], as of `vectors.weighted_words`.
      others: float64[n, words], likewise.
      rows: float[n, d], one for each of the others.
    """
    found = np.zeros((texts.shape[0], rows.shape[1]))
    for number in range(len(found)):
        alike = (others @ texts[number].T).toarray()[:, 0]
        near = np.argsort(-alike, kind="stable")[:NEIGHBOURS]
        found[number] = rows[near].mean(axis=0)
    return found


def _residual(
    rows: np.ndarray, levels: int, number: int, stream: np.random.Generator
) -> np.ndarray:
    """float[m, k, d]: each level's centres are of what the levels before leave over."""
    books, left = [], rows
    for _ in range(levels):
        centres = _centres(left, number, stream)
        left = left - centres[nearest(centres[None], left)[:, 0]]
        books.append(centres)
    return np.stack(books)


def _product(rows: np.ndarray, levels: int, number: int, stream: np.random.Generator) -> np.ndarray:
    """float[m, k, d]: each level's centres are of its own dimensions, dealt out in turn.

    Components stand by their importance: in turn, each level has as much of it.
    """
    books = np.zeros((levels, number, rows.shape[1]), np.float32)
    for level, book in enumerate(books):
        book[:, level::levels] = _centres(rows[:, level::levels], number, stream)
    return books


def _centres(rows: np.ndarray, number: int, stream: np.random.Generator) -> np.ndarray:
    """float[k, d], the centres of k-means."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    seed = int(stream.integers(2**31))
    means = KMeans(number, n_init=1, max_iter=ITERATIONS, random_state=seed)
    # Threads would add up in another order each time. That fewer vectors than centres differ is
    # told by the use of codes.
    with (
        threadpool_limits(1),
        warnings.catch_warnings(action="ignore", category=ConvergenceWarning),
    ):
        return means.fit(rows).cluster_centers_


def _count(codes: np.ndarray) -> np.ndarray:
    """int32[n]: 0, 1, … in the order of items within those of the same codes, -1 for one alone."""
    _, group, sizes = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    group = group.ravel()
    order = np.argsort(group, kind="stable")
    starts = np.cumsum(sizes) - sizes
    counters = np.empty(len(codes), np.int32)
    counters[order] = np.arange(len(codes)) - np.repeat(starts, sizes)
    return np.where(sizes[group] > 1, counters, -1).astype(np.int32)


def known_vectors(
    source: str, items: pd.DataFrame, offsets: np.ndarray, events: np.ndarray
) -> np.ndarray:
    """What is quantised, float64[n, d]: `vectors.item_vectors` of at most `SIZE` components.

    Of an item that nobody bought, a source that reads events knows nothing or half: it is the mean
    of the `NEIGHBOURS` bought items whose texts are nearest; an item without a text has 0.

    Arguments are those of `vectors.item_vectors`; events are of train.

    Raises:
      UserError: as for `vectors.item_vectors`, or nothing is known of any item.
    """
    rows = vectors.item_vectors(source, items, offsets, events, SIZE)
    if not rows.any():
        raise UserError(
            f"--id_vectors {source} tells no item from another: there is nothing to make ids of"
        )
    bought = np.bincount(events, minlength=len(items)) > 0
    if source not in (vectors.CO_OCCURRENCE, vectors.BOTH) or bought.all() or not bought.any():
        return rows
    words = vectors.weighted_words(items)
    rows[~bought] = mean_of_nearest(words[~bought], words[bought], rows[bought])
    rows[~bought & (words.getnnz(axis=1) == 0)] = 0
    return rows
