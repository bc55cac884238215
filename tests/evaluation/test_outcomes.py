"""Outcomes: the same means as the metrics, intervals over users, paired differences, the file."""

import re

import numpy as np
import pytest
import scipy.stats

from recalign.errors import UserError
from recalign.evaluation import metrics, outcomes
from recalign.evaluation.intervals import name_end
from recalign.evaluation.outcomes import Errors, Ranks

USERS, ITEMS = 400, 60


def lists(seed, skill, depth=20):
    """Lists of the catalogue that hold the target high up the more skill there is."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(USERS, ITEMS))
    targets = np.random.default_rng(9).integers(0, ITEMS, USERS)
    scores[np.arange(USERS), targets] += skill
    ranked = np.argsort(-scores, axis=1)[:, :depth].astype(np.int32)
    return outcomes.evaluate_lists(ranked, targets, ITEMS, "full", np.arange(USERS))


def ratings(seed, noise):
    rng = np.random.default_rng(seed)
    true = np.random.default_rng(8).integers(1, 6, USERS).astype(float)
    predicted = np.where(rng.random(USERS) < 0.1, np.nan, true + noise * rng.normal(size=USERS))
    users = np.sort(np.random.default_rng(7).integers(0, 150, USERS))
    return outcomes.evaluate_ratings(predicted, true, 3.0, users)


def by_users(errors, users, statistic):
    """Scipy's bootstrap of whole users: the interval of a statistic of their errors."""
    own = [errors[users == user] for user in np.unique(users)]
    rng = np.random.default_rng(1)
    drawn = [
        statistic(np.concatenate([own[u] for u in rng.integers(0, len(own), len(own))]))
        for _ in range(4000)
    ]
    return np.quantile(drawn, [0.025, 0.975])


def test_a_row_has_the_metrics_and_the_ends_of_those_that_are_means_of_users():
    found = lists(0, 2.0)
    row = outcomes.summarise([found])
    assert found.metrics.items() <= row.items()
    ends = {re.sub("/(low|high)/", "/", name) for name in row.keys() - found.metrics.keys()}
    means = {name for name in found.metrics if "rate" not in name and "coverage" not in name}
    assert ends == means
    for name in means:
        assert row[name_end(name, "low")] < row[name] < row[name_end(name, "high")]
    hits = found.outcomes["full"].ranks
    hits = ((hits > 0) & (hits <= 10)).astype(float)
    expected = scipy.stats.bootstrap((hits,), np.mean, method="percentile", rng=1)
    noise = 0.1 * hits.std() / np.sqrt(USERS)
    assert row["full/low/hr@10"] == pytest.approx(expected.confidence_interval.low, abs=noise)
    assert row["full/high/hr@10"] == pytest.approx(expected.confidence_interval.high, abs=noise)


def test_candidates_are_ranked_as_their_metrics_say():
    scores = np.round(np.random.default_rng(0).normal(size=(USERS, 30)), 1)  # ties
    found = outcomes.evaluate_candidates(scores, 4, np.arange(USERS))
    assert found.metrics == metrics.candidate_ranking(scores, 4)
    [(protocol, part)] = found.outcomes.items()
    for k in (1, 5, 10):
        assert np.mean(part.ranks <= k) == found.metrics[f"{protocol}/hr@{k}"]
    row = outcomes.summarise([found])
    assert "cand30/hr@20" not in row
    assert {name_end(name, "low") for name in found.metrics} < row.keys()


@pytest.mark.parametrize("statistic", ["rmse", "mae"])
def test_ratings_of_a_user_are_resampled_together(statistic):
    found = ratings(0, 0.8)
    row = outcomes.summarise([found])
    part = found.outcomes["rating"]
    functions = {"rmse": lambda e: np.sqrt(np.mean(e**2)), "mae": lambda e: np.mean(np.abs(e))}
    low, high = by_users(part.errors, part.users, functions[statistic])
    noise = 0.1 * (high - low)
    assert row[f"rating/low/{statistic}"] == pytest.approx(low, abs=noise)
    assert row[f"rating/high/{statistic}"] == pytest.approx(high, abs=noise)
    assert "rating/low/parse_rate" not in row


def test_differences_are_paired():
    one, same = lists(0, 2.0), lists(0, 2.1)  # hardly differ, user by user
    stranger = lists(1, 2.0)
    close = outcomes.subtract([same], [one.outcomes])
    far = outcomes.subtract([stranger], [one.outcomes])
    for other, row in ((same, close), (stranger, far)):
        for name, value in row.items():
            if "/low/" not in name and "/high/" not in name:
                expected = other.metrics[name] - one.metrics[name]
                assert value == pytest.approx(expected, abs=1e-12)
                assert row[name_end(name, "low")] <= value <= row[name_end(name, "high")]
    width = [row["full/high/hr@10"] - row["full/low/hr@10"] for row in (close, far)]
    assert width[0] < width[1] / 3
    ranks = [each.outcomes["full"].ranks for each in (stranger, one)]
    hits = [((r > 0) & (r <= 10)).astype(float) for r in ranks]
    expected = scipy.stats.bootstrap(
        hits, lambda a, b, axis: np.mean(a - b, axis=axis), paired=True, method="percentile", rng=1
    ).confidence_interval
    assert far["full/low/hr@10"] == pytest.approx(expected.low, abs=0.05 * width[1])
    assert far["full/high/hr@10"] == pytest.approx(expected.high, abs=0.05 * width[1])
    error = outcomes.subtract([ratings(0, 0.5)], [ratings(1, 0.9).outcomes])
    assert error["rating/high/rmse"] < 0


def test_what_one_has_of_itself_is_nothing():
    row = outcomes.subtract([lists(0, 2.0)], [lists(0, 2.0).outcomes])
    assert set(row.values()) == {0.0}


def test_seeds_are_averaged_user_by_user():
    seeds = [lists(seed, 2.0) for seed in range(3)]
    row = outcomes.summarise(seeds)
    assert row["full/ndcg@10"] == pytest.approx(
        np.mean([each.metrics["full/ndcg@10"] for each in seeds])
    )
    alone = outcomes.summarise(seeds[:1])
    width, of_one = (each["full/high/ndcg@10"] - each["full/low/ndcg@10"] for each in (row, alone))
    assert width < of_one
    values = np.mean(
        [e.outcomes["full"].sums()[:, e.outcomes["full"].names().index("ndcg@10")] for e in seeds],
        axis=0,
    )
    assert width == pytest.approx(2 * 1.96 * values.std() / np.sqrt(USERS), rel=0.05)
    difference = outcomes.subtract(seeds, [each.outcomes for each in seeds[:2]])
    expected = row["full/ndcg@10"] - np.mean([e.metrics["full/ndcg@10"] for e in seeds[:2]])
    assert difference["full/ndcg@10"] == pytest.approx(expected, abs=1e-12)


def test_shorter_lists_and_fewer_examples_are_compared_as_far_as_they_go():
    one, short = lists(0, 2.0), lists(1, 2.0, depth=10)
    row = outcomes.subtract([one], [short.outcomes])
    assert "full/hr@10" in row
    assert "full/hr@20" not in row
    part = short.outcomes["full"]
    fewer = {"full": Ranks(part.users[:100], part.ranks[:100], 10)}
    first = np.mean([1 <= r <= 10 for r in one.outcomes["full"].ranks[:100]])
    second = np.mean([1 <= r <= 10 for r in part.ranks[:100]])
    found = outcomes.subtract([one], [fewer])["full/hr@10"]
    assert found == pytest.approx(first - second)
    others = {"full": Ranks(part.users + 1, part.ranks, 10)}
    with pytest.raises(UserError, match="full: the examples are not those of the same users"):
        outcomes.subtract([one], [others])


def test_a_file_gives_back_what_was_written(tmp_path):
    path = tmp_path / "outcomes" / "test-300.npz"
    both = lists(0, 2.0) | outcomes.evaluate_candidates(np.eye(USERS, 30), 0, np.arange(USERS))
    rated = ratings(0, 0.5)
    tasks = {
        "shop_retrieval": ("shop sha256 ab", both.outcomes),
        "shop_rating": ("shop sha256 ab", rated.outcomes),
    }
    outcomes.write(path, tasks)
    assert [p.name for p in path.parent.iterdir()] == ["test-300.npz"]
    found = outcomes.read(path)
    assert found.keys() == tasks.keys()
    for task, (domain, written) in tasks.items():
        assert found[task][0] == domain
        assert found[task][1].keys() == written.keys()
        for protocol, part in written.items():
            np.testing.assert_equal(vars(found[task][1][protocol]), vars(part))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="holds no outcomes"):
        outcomes.read(path)


def test_errors_have_names_of_their_own():
    part = Errors(np.array([0, 0, 3]), np.array([1.0, -2.0, 0.0]))
    np.testing.assert_allclose(part.combine(part.sums().mean(axis=0)[None]), [[(5 / 3) ** 0.5, 1]])
