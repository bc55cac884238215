"""Baselines of rating prediction: means, and matrix factorisation with biases."""

from typing import NamedTuple, Protocol, Self

import numpy as np
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from recalign.evaluation.baselines.rankers import CHUNK_ENTRIES, chunks


class Ratings(NamedTuple):
    """Who rated what how; a `RatingSplit` of a domain has the same attributes.

    Attributes:
      users: int[n].
      items: int[n].
      ratings: float[n].
    """

    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray


class Rater(Protocol):
    """A baseline: fitted on train ratings, it predicts others."""

    def fit(self, train: Ratings, num_users: int, num_items: int) -> Self:
        """Learns from train ratings; users are 0 … num_users−1 and items 0 … num_items−1."""

    def predict(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The ratings float64[m] that users int[m] would give items int[m]."""


class GlobalMean:
    """The mean train rating, for everything."""

    def fit(self, train: Ratings, num_users: int, num_items: int) -> Self:
        """See `Rater`."""
        self.mean = float(np.mean(train.ratings, dtype=float))
        return self

    def predict(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """See `Rater`."""
        return np.full(len(users), self.mean)


class GroupMean:
    """The mean train rating of each user, or of each item, shrunk towards the global mean.

        mean + Σ (r − mean) / (n + shrinkage)  over its n train ratings,

    so that few ratings say little; a plain mean with a shrinkage of 0, and where there are no
    ratings the global mean.
    """

    def __init__(self, of: str, shrinkage: float = 5.0):
        if of not in ("users", "items"):
            raise ValueError(f"a mean of {of!r}: expected users or items")
        self.of, self.shrinkage = of, shrinkage

    def fit(self, train: Ratings, num_users: int, num_items: int) -> Self:
        """See `Rater`."""
        mean = GlobalMean().fit(train, num_users, num_items).mean
        groups = getattr(train, self.of)
        size = num_users if self.of == "users" else num_items
        sums = np.bincount(groups, np.asarray(train.ratings, float) - mean, minlength=size)
        weights = np.bincount(groups, minlength=size) + self.shrinkage
        self.means = mean + np.divide(sums, weights, out=np.zeros(size), where=weights > 0)
        return self

    def predict(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """See `Rater`."""
        return self.means[users if self.of == "users" else items]


class BiasedMF:
    """Matrix factorisation with biases (Koren, Bell & Volinsky 2009), by alternating least squares.

        r(u, i) = mean + b_u + b_i + p_u · q_i

    minimises Σ (r − r(u, i))² + λ Σ (b² + |p|² + |q|²), exactly in the users and in the items by
    turns; predictions are cut to the range of the train ratings. Of several λ, the one with the
    least squared error on `validation` is taken.

    Args:
      validation: ratings that decide on λ; without them the first of `regularizations` is taken.
      factors: length of p and q.
      regularizations: the λ to try.
      sweeps: turns over users and items.
      seed: of the initial item vectors.
    """

    FITTED = ("mean", "range", "regularization", "users", "items")

    def __init__(
        self,
        validation: Ratings | None = None,
        factors: int = 8,
        regularizations: tuple[float, ...] = (5.0, 1.0, 2.0, 10.0, 20.0),
        sweeps: int = 10,
        seed: int = 0,
    ):
        self.validation, self.factors, self.sweeps, self.seed = validation, factors, sweeps, seed
        self.regularizations = regularizations

    def fit(self, train: Ratings, num_users: int, num_items: int) -> Self:
        """See `Rater`."""
        self.mean = float(np.mean(train.ratings, dtype=float))
        self.range = float(np.min(train.ratings)), float(np.max(train.ratings))
        tried = self.regularizations if self.validation is not None else self.regularizations[:1]
        best = np.inf
        for value in tried:
            # Matrices of a few columns: the threads of BLAS would only wait for each other.
            with threadpool_limits(1, "blas"):
                vectors = self._solve(train, num_users, num_items, value)
            error = self._error(*vectors) if self.validation is not None else 0.0
            if error < best:
                best, self.regularization = error, value
                self.users, self.items = vectors
        return self

    def predict(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """See `Rater`."""
        return self._predict(self.users, self.items, users, items)

    def _predict(
        self,
        user_vectors: np.ndarray,
        item_vectors: np.ndarray,
        users: np.ndarray,
        items: np.ndarray,
    ) -> np.ndarray:
        p, q = user_vectors[users], item_vectors[items]
        raw = self.mean + p[:, 0] + q[:, 0] + np.einsum("nf,nf->n", p[:, 1:], q[:, 1:])
        return np.clip(raw, *self.range)

    def _error(self, user_vectors: np.ndarray, item_vectors: np.ndarray) -> float:
        held = self.validation
        found = self._predict(user_vectors, item_vectors, held.users, held.items)
        return float(np.mean((found - held.ratings) ** 2))

    def _solve(
        self, train: Ratings, num_users: int, num_items: int, regularization: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors float64[users, 1 + F] and float64[items, 1 + F]; the first column is the bias."""
        rng = np.random.default_rng(self.seed)
        users = np.zeros((num_users, 1 + self.factors))
        items = rng.normal(0, 0.1, (num_items, 1 + self.factors))
        items[:, 0] = 0
        deviations = np.asarray(train.ratings, float) - self.mean
        of_users = _table(train.users, train.items, deviations, (num_users, num_items))
        of_items = _table(train.items, train.users, deviations, (num_items, num_users))
        for _ in range(self.sweeps):
            _least_squares(users, of_users, items, regularization)
            _least_squares(items, of_items, users, regularization)
        return users, items


def _table(
    owners: np.ndarray, others: np.ndarray, deviations: np.ndarray, shape: tuple[int, int]
) -> csr_array:
    """The deviations of each owner in a row; those of one pair stay apart."""
    order = np.argsort(owners, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=shape[0]))])
    return csr_array((deviations[order], others[order], starts), shape)


def _least_squares(
    vectors: np.ndarray, deviations: csr_array, others: np.ndarray, regularization: float
) -> None:
    """Sets each row of `vectors` to the ridge solution given the vectors of the other side.

    Args:
      vectors: float64[rows, 1 + F], written in place; rows without ratings become 0.
      deviations: float64[rows, columns], a row's ratings less the mean.
      others: float64[columns, 1 + F], the other side's vectors.
      regularization: λ.
    """
    # The unknowns are bias and factors; the bias meets 1, and the other side's bias is known.
    features = np.concatenate([np.ones((len(others), 1)), others[:, 1:]], axis=1)
    known = features * others[:, :1]
    # The Gram matrix of a row is the sum of its columns' outer products, of which half is enough.
    width = vectors.shape[1]
    upper = np.triu_indices(width)
    products = features[:, upper[0]] * features[:, upper[1]]
    rated = csr_array(
        (np.ones(deviations.nnz), deviations.indices, deviations.indptr), deviations.shape
    )
    for rows in chunks(np.full(len(vectors), width * width), CHUNK_ENTRIES):
        grams = np.empty((rows.stop - rows.start, width, width))
        grams[:, upper[0], upper[1]] = grams[:, upper[1], upper[0]] = rated[rows] @ products
        grams += regularization * np.eye(width)
        sums = deviations[rows] @ features - rated[rows] @ known
        vectors[rows] = np.linalg.solve(grams, sums[:, :, None])[:, :, 0]
