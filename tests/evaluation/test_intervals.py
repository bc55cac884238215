"""Intervals against scipy's bootstrap and against theory."""

import numpy as np
import pytest
import scipy.stats

from recalign.evaluation import intervals as bootstrap
from recalign.evaluation.intervals import intervals, resampled_means


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    ranks = rng.geometric(0.03, size=2000)
    hits = ranks <= 10
    return np.stack([hits, np.where(hits, 1 / np.log2(ranks + 1), 0)], axis=1)


def test_intervals_are_those_of_scipy(values):
    found = intervals(resampled_means(values))
    for column, (low, high) in zip(values.T, found, strict=True):
        interval = scipy.stats.bootstrap(
            (column,), np.mean, n_resamples=10_000, method="percentile", rng=1
        ).confidence_interval
        noise = column.std() / np.sqrt(len(column)) * 0.06  # of a quantile of 10,000 draws, twice
        assert low == pytest.approx(interval.low, abs=noise)
        assert high == pytest.approx(interval.high, abs=noise)


def test_resampled_means_have_the_mean_and_the_standard_error_of_the_users(values):
    means = resampled_means(values)
    np.testing.assert_allclose(means.mean(axis=0), values.mean(axis=0), rtol=5e-3)
    expected = values.std(axis=0) / np.sqrt(len(values))
    np.testing.assert_allclose(means.std(axis=0), expected, rtol=0.03)


def test_quantities_of_the_same_users_move_together(values):
    means = resampled_means(np.concatenate([values, values[:, :1] - values[:, 1:]], axis=1))
    np.testing.assert_allclose(means[:, 2], means[:, 0] - means[:, 1], atol=1e-12)


def test_the_same_seed_gives_the_same_and_order_does_not_matter(values):
    np.testing.assert_array_equal(resampled_means(values), resampled_means(values[::-1]))
    assert not np.array_equal(resampled_means(values), resampled_means(values, seed=1))


def test_all_alike_leave_no_doubt():
    found = intervals(resampled_means(np.full((50, 1), 0.25)))
    np.testing.assert_allclose(found, [[0.25, 0.25]])


def test_values_that_all_differ():
    errors = np.random.default_rng(0).normal(size=(3000, 1)) ** 2
    low, high = intervals(np.sqrt(resampled_means(errors, resamples=2000)))[0]
    assert low < np.sqrt(errors.mean()) < high
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(2 * 3000), rel=0.15)


@pytest.mark.parametrize("copies", [5, 60])  # drawn one by one, and as counts of equal rows
def test_every_user_is_drawn_as_often_as_another(copies):
    means = resampled_means(np.repeat(np.eye(4), copies, axis=0))
    np.testing.assert_allclose(means.sum(axis=1), 1)
    deviation = np.sqrt(1 / 4 * 3 / 4 / (4 * copies))
    np.testing.assert_allclose(means.mean(axis=0), 1 / 4, atol=5 * deviation / np.sqrt(10_000))
    np.testing.assert_allclose(means.std(axis=0), deviation, rtol=0.05)


@pytest.mark.parametrize("copies", [5, 60])
def test_how_many_are_drawn_at_once_changes_nothing(copies, monkeypatch):
    values = np.repeat(np.eye(4), copies, axis=0)
    whole = resampled_means(values, resamples=50)
    for at_once in (1, 13):  # counts: fewer than a single resample has, and a few
        monkeypatch.setattr(bootstrap, "AT_ONCE", at_once)
        np.testing.assert_array_equal(resampled_means(values, resamples=50), whole)
