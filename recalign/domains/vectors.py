"""Vectors of items: what their texts, or the users who bought them in train, say of each other."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse

from recalign.domains.catalogue import TEXT_COLUMNS
from recalign.errors import UserError
from recalign.files import locate

TITLES, CO_OCCURRENCE, BOTH = "titles", "co_occurrence", "both"
SOURCES = (TITLES, CO_OCCURRENCE, BOTH)
# The part of the dimensions of 'both' that is from titles; all have the same variance on average.
# Chosen on the validation splits of Amazon's Beauty and Toys.
FROM_TITLES = 3 / 4

# A matrix with so many rows or columns is decomposed exactly.
DENSE = 1000
OVERSAMPLING, POWER_ITERATIONS = 32, 6
# Of `explained_text_vectors`, chosen on the validation split of Amazon's Beauty and Toys.
EXPLAINING, SHRINKAGE = 768, 5

_WORD = re.compile(r"\w+")


def check_source(option: str, source: str, others: Sequence[str] = ()) -> None:
    """Raises a UserError unless `item_vectors` knows a source, or it is one of the others."""
    if source not in (*others, *SOURCES) and not source.endswith((".npy", ".parquet")):
        known = ", ".join(map(repr, (*others, *SOURCES)))
        raise UserError(
            f"{option} is {source!r}: expected {known}, or a file of vectors (.npy, .parquet)"
        )


def item_vectors(
    source: str, items: pd.DataFrame, offsets: np.ndarray, events: np.ndarray, size: int
) -> np.ndarray:
    """What is known of items, float64[n, k] with k <= `size`, of mean 0 and deviation 1.

    Args:
      source: 'titles' (with brands and categories), 'co_occurrence', 'both', of which
        `FROM_TITLES` is what titles say of co-occurrence; or a file, see `read_vectors`, of which
        the principal components are kept where it has more than `size`.
      items: the catalogue in index order.
      offsets: as for `co_occurrence_vectors`; of train.
      events: as for `co_occurrence_vectors`.
      size: at most so many components; a small catalogue, or a file, has fewer.

    Raises:
      UserError: there is no such source, or the file does not fit.
    """
    check_source("the source of item vectors", source)
    if source == TITLES:
        return _standardise(text_vectors(items, size))
    if source == CO_OCCURRENCE:
        return _standardise(co_occurrence_vectors(offsets, events, len(items), size))
    if source == BOTH:
        from_titles = round(FROM_TITLES * size)
        said = explained_text_vectors(items, offsets, events, from_titles)
        bought = item_vectors(CO_OCCURRENCE, items, offsets, events, size - from_titles)
        return _standardise(np.concatenate([_standardise(said), bought], axis=1))
    return principal(read_vectors(source, items["key"].to_numpy()), size)


def principal(rows: np.ndarray, size: int) -> np.ndarray:
    """The first `size` principal components of vectors float[n, k], of mean 0 and deviation 1."""
    rows = _standardise(rows)
    if rows.shape[1] <= size:
        return rows
    left, values, _ = np.linalg.svd(rows, full_matrices=False)
    return _standardise(left[:, :size] * values[:size])


def _standardise(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    if not rows.size:  # nothing is known
        return rows
    rows = rows - rows.mean(axis=0)
    return rows / (rows.std() or 1)


def text_vectors(items: pd.DataFrame, size: int) -> np.ndarray:
    """Vectors of the items' titles, brands and categories, float32[n, k] with k <= `size`.

    Words are weighted by TF-IDF, (1 + ln tf) · ln(n / df), those of a single item left out; rows
    have length 1. Of the matrix, the left singular vectors are kept (latent semantic analysis,
    Deerwester et al. 1990), whitened: without the singular values, which would leave little of all
    but the commonest words.

    Args:
      items: the catalogue in index order.
      size: at most so many components; a small catalogue has fewer.
    """
    left, _ = _singular_vectors(weighted_words(items), size)
    return left.astype(np.float32)


def weighted_words(items: pd.DataFrame) -> scipy.sparse.csr_matrix:
    """Each item's words by TF-IDF as in `text_vectors`, float64[n, words], rows of length 1 or 0.

    Products of rows are cosines of texts, in a catalogue of any size: whitened vectors of a small
    one, which has as many components as items, are all at right angles.
    """
    column_of: dict[str, int] = {}
    rows, columns = [], []
    for item, texts in enumerate(items[list(TEXT_COLUMNS)].itertuples(index=False)):
        words = _WORD.findall(" ".join(texts).casefold())
        rows += [item] * len(words)
        columns += [column_of.setdefault(word, len(column_of)) for word in words]
    counts = _counts(rows, columns, (len(items), len(column_of)))
    documents = np.asarray((counts > 0).sum(axis=0)).ravel()
    counts, documents = counts[:, documents > 1], documents[documents > 1]
    counts.data = 1 + np.log(counts.data)
    weighted = counts @ scipy.sparse.diags(np.log(len(items) / documents))
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    scale = 1 / np.where(lengths > 0, lengths, 1)
    return scipy.sparse.csr_matrix(scipy.sparse.diags(scale) @ weighted)


def co_occurrence_vectors(
    offsets: np.ndarray, events: np.ndarray, num_items: int, size: int
) -> np.ndarray:
    """Vectors of items by who bought them, float32[n, k] with k <= `size`.

    The matrix is ln(1 + n(i, j) · U / (n(i) · n(j))), 0 on its diagonal, with U users, of whom
    n(i, j) have both items and n(i) one. Of it, the left singular vectors times the roots of the
    singular values are kept. An item that nobody bought has the vector 0.

    Args:
      offsets: int64[U + 1]; user u has `events[offsets[u]:offsets[u + 1]]`. Of train.
      events: int32[…], item indices.
      num_items: n.
      size: at most so many components; a small catalogue has fewer.
    """
    left, values = _singular_vectors(_lift(offsets, events, num_items)[0], size)
    return (left * np.sqrt(values)).astype(np.float32)


def explained_text_vectors(
    items: pd.DataFrame, offsets: np.ndarray, events: np.ndarray, size: int
) -> np.ndarray:
    """Vectors of what texts say of who buys what, float32[n, k] with k <= `size`.

    Of the space that `text_vectors` spans, the directions in which items that are bought together
    lie together most: with Q an orthonormal basis of it (`EXPLAINING` of them) and
    A(i, j) = ln(1 + lift) / √((n(i) + s) (n(j) + s)), of which rare items have no more than
    their part, they are Q times the first eigenvectors of QᵀAQ. An item that nobody bought has
    a vector too, by its words.

    Arguments are those of `text_vectors` and `co_occurrence_vectors`.
    """
    texts = text_vectors(items, EXPLAINING).astype(np.float64)
    basis, _ = np.linalg.qr(texts - texts.mean(axis=0))
    lift, number = _lift(offsets, events, len(items))
    shrunk = scipy.sparse.diags(1 / np.sqrt(number + SHRINKAGE))
    _, directions = np.linalg.eigh(basis.T @ (shrunk @ lift @ shrunk @ basis))
    return _fix_signs(basis @ directions[:, ::-1][:, :size]).astype(np.float32)


def _lift(
    offsets: np.ndarray, events: np.ndarray, num_items: int
) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """The matrix of `co_occurrence_vectors`, and how many users have each item, float64[n]."""
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    bought = _counts(users, events, (len(offsets) - 1, num_items))
    bought.data[:] = 1
    number = np.asarray(bought.sum(axis=0)).ravel()
    pairs = (bought.T @ bought).tocoo()
    apart = pairs.row != pairs.col
    row, column, together = pairs.row[apart], pairs.col[apart], pairs.data[apart]
    lift = together * bought.shape[0] / (number[row] * number[column])
    shape = (num_items, num_items)
    return scipy.sparse.csr_matrix((np.log1p(lift), (row, column)), shape=shape), number


def read_vectors(path: str | os.PathLike, keys: np.ndarray) -> np.ndarray:
    """Vectors from a file, float32[n, k].

    Args:
      path: NumPy's `.npy`, float[n, k] in index order; or Parquet with a column `key`, the source's
        item ids, and numbers in all others, or lists of numbers in one other. Further items in it
        are left out.
      keys: str[n], the items' ids in index order.

    Raises:
      UserError: it cannot be read, has no vector for an item, or a vector is no row of finite
        numbers as long as the others.
    """
    path = locate(path)
    try:
        if path.suffix == ".npy":
            found = np.load(path, allow_pickle=False)
        elif path.suffix == ".parquet":
            found = _by_key(pd.read_parquet(path), path, keys)
        else:
            raise UserError(f"{path}: vectors are read from .npy or .parquet")
        found = np.asarray(found, np.float32)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: no vectors of numbers, all of one length: {error}") from error
    if found.ndim != 2 or len(found) != len(keys) or not found.shape[1]:
        raise UserError(
            f"{path}: holds numbers of the shape {found.shape}, but there are {len(keys)} items: "
            "expected a row for each, in the order of items.parquet"
        )
    if len(bad := np.flatnonzero(~np.isfinite(found).all(axis=1))):
        raise UserError(
            f"{path}: the vector of item {keys[bad[0]]!r} holds a number that is not finite; "
            f"{len(bad)} of {len(keys)} do"
        )
    return found


def _by_key(table: pd.DataFrame, path: Path, keys: np.ndarray) -> np.ndarray:
    """The vectors of a table, one for each key, in their order."""
    if "key" not in table or len(table.columns) < 2:
        raise UserError(f"{path}: needs a column 'key' and vectors, but has {list(table.columns)}")
    table = table.drop_duplicates("key").set_index(table["key"].astype(str)).drop(columns="key")
    absent = [key for key in keys if key not in table.index]
    if absent:
        raise UserError(
            f"{path}: has no vector of {len(absent)} of {len(keys)} items, such as {absent[0]!r}"
        )
    table = table.loc[keys]
    is_list = len(table.columns) == 1 and table.iloc[:, 0].dtype == object
    return np.stack(table.iloc[:, 0]) if is_list else table.to_numpy()


def _counts(rows, columns, shape: tuple[int, int]) -> scipy.sparse.csr_matrix:
    """How often each pair is there."""
    return scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)


def _singular_vectors(matrix: scipy.sparse.csr_matrix, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `size` left singular vectors, float64[n, k], and values, descending.

    Those of the value 0 are left out. The largest number of each vector is positive, so that a
    matrix has one answer. A large matrix is decomposed within the space that random vectors are
    drawn into by power iteration (Halko et al., arXiv:0909.4061, algorithms 4.4 and 5.1); ARPACK,
    which is exact, gives another answer each time where values are equal.
    """
    if min(matrix.shape) <= DENSE:
        left, values, _ = np.linalg.svd(matrix.toarray(), full_matrices=False)
    else:
        draws = np.random.default_rng(0).normal(size=(matrix.shape[1], size + OVERSAMPLING))
        basis, _ = np.linalg.qr(matrix @ draws)
        for _ in range(POWER_ITERATIONS):
            basis, _ = np.linalg.qr(matrix.T @ basis)
            basis, _ = np.linalg.qr(matrix @ basis)
        left, values, _ = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)
        left = basis @ left
    kept = min(size, int(np.sum(values > 1e-9 * values.max(initial=0))))
    left, values = left[:, :kept], values[:kept]
    return _fix_signs(left), values


def _fix_signs(columns: np.ndarray) -> np.ndarray:
    """Columns of which the largest number is positive: vectors that are known but for a sign."""
    largest = np.take_along_axis(columns, np.abs(columns).argmax(axis=0)[None], axis=0)
    return columns * np.sign(largest)
