"""Baselines of rating prediction: means, and matrix factorisation with biases."""

from typing import NamedTuple, Protocol, Self

import numpy as np
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
        for _ in range(self.sweeps):
            _least_squares(users, train.users, items[train.items], deviations, regularization)
            _least_squares(items, train.items, users[train.users], deviations, regularization)
        return users, items


def _least_squares(
    vectors: np.ndarray,
    owners: np.ndarray,
    others: np.ndarray,
    deviations: np.ndarray,
    regularization: float,
) -> None:
    """Sets each row of `vectors` to the ridge solution given the vectors of the other side.

    Args:
      vectors: float64[rows, 1 + F], written in place; rows without ratings become 0.
      owners: int[n], the row that each rating belongs to.
      others: float64[n, 1 + F], the other side's vector of each rating.
      deviations: float64[n], ratings less the mean.
      regularization: λ.
    """
    order = np.argsort(owners, kind="stable")
    counts = np.bincount(owners, minlength=len(vectors))
    # The unknowns are bias and factors; the bias meets 1, and the other side's bias is known.
    features = np.concatenate([np.ones((len(others), 1)), others[:, 1:]], axis=1)[order]
    wanted = (deviations - others[:, 0])[order]
    width = vectors.shape[1]
    for rows in chunks(np.full(len(vectors), width * width), CHUNK_ENTRIES):
        grams = np.empty((rows.stop - rows.start, width, width))
        sums = np.empty((rows.stop - rows.start, width, 1))
        stops = np.cumsum(counts[rows]) + counts[: rows.start].sum()
        for row, (count, stop) in enumerate(zip(counts[rows], stops, strict=True)):
            x = features[stop - count : stop]
            np.matmul(x.T, x, out=grams[row])
            np.matmul(x.T, wanted[stop - count : stop, None], out=sums[row])
        grams += regularization * np.eye(width)
        vectors[rows] = np.linalg.solve(grams, sums)[:, :, 0]
