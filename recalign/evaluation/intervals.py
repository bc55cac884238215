"""How sure a mean over users is: percentile bootstrap (Efron 1979), resampling users."""

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95

ENDS = ("low", "high")
"""Of an interval."""

COST_OF_A_CATEGORY = 8
"""Of a multinomial draw, in draws of a single user."""

AT_ONCE = 1 << 15
"""Counts that are drawn together, so that they stay in a core's cache."""


def resampled_means(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """The means of several quantities in resamples of the users, drawn with replacement.

    Users with equal values are interchangeable, so that what is drawn is how often each distinct
    row comes, from a multinomial distribution: metrics of ranks have a few dozen distinct rows,
    however many users there are. Where most rows differ, users are drawn one by one, which is the
    same distribution.

    Args:
      values: float[m, q], q quantities of each user.
      resamples: how many.
      seed: of the draws.

    Returns:
      float64[resamples, q].
    """
    values = np.asarray(values, np.float64)
    distinct, counts = np.unique(values, axis=0, return_counts=True)
    users, rng = len(values), np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    one_by_one = len(distinct) * COST_OF_A_CATEGORY > users
    rows = np.repeat(distinct, counts, axis=0) if one_by_one else distinct
    # One by one: a product of matrices may round equal columns unlike, and what one has of itself
    # is nothing.
    columns = np.ascontiguousarray(rows.T)
    at_once = max(1, AT_ONCE // len(rows))
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        if one_by_one:
            places = rng.integers(0, users, (size, users)) + users * np.arange(size)[:, None]
            drawn = np.bincount(places.ravel(), minlength=size * users).reshape(size, users)
        else:
            drawn = rng.multinomial(users, counts / users, size=size)
        drawn = drawn.astype(np.float64)
        for quantity, column in enumerate(columns):
            means[start : start + size, quantity] = drawn @ column / users
    return means


def intervals(means: np.ndarray) -> np.ndarray:
    """The middle `LEVEL` of resampled values float64[resamples, q]: lower, upper, float64[q, 2]."""
    tail = (1 - LEVEL) / 2
    return np.quantile(means, (tail, 1 - tail), axis=0).T


def name_end(metric: str, end: str) -> str:
    """What an end of a metric's interval is called: `full/hr@10` → `full/low/hr@10`."""
    protocol, _, name = metric.rpartition("/")
    return f"{protocol}/{end}/{name}"
