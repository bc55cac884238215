"""How sure a mean over users is: percentile bootstrap (Efron 1979), resampling users."""

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95


def resampled_means(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """The means of several quantities in resamples of the users, drawn with replacement.

    Users with equal values are interchangeable, so that what is drawn is how often each distinct
    row comes, from a multinomial distribution: metrics of ranks have a few dozen distinct rows,
    however many users there are.

    Args:
      values: float[m, q], q quantities of each user.
      resamples: how many.
      seed: of the draws.

    Returns:
      float64[resamples, q].
    """
    values = np.asarray(values, np.float64)
    distinct, counts = np.unique(values, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    at_once = max(1, 50_000_000 // len(distinct))
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        drawn = rng.multinomial(len(values), counts / len(values), size=size)
        means[start : start + size] = drawn @ distinct / len(values)
    return means


def intervals(means: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """The middle `level` of resampled values float64[resamples, q]: lower, upper, float64[q, 2]."""
    tail = (1 - level) / 2
    return np.quantile(means, (tail, 1 - tail), axis=0).T
