"""What a run remembers of its evaluations."""

import pytest

from recalign.runs.directory import RunDirectory


@pytest.fixture
def directory(tmp_path):
    found = RunDirectory(tmp_path)
    for step, hits, rmse in ((10, 0.1, 1.3), (20, 0.3, 0.9), (30, 0.3, 0.8), (40, 0.2, 1.0)):
        row = {
            "shop_retrieval/validation/full/hr@10": hits,
            "shop_rating/validation/rating/rmse": rmse,
        }
        found.record(step, "validation", row)
    # Test decides nothing.
    found.record(40, "test", {"shop_retrieval/test/full/hr@10": 0.9})
    return found


@pytest.mark.parametrize(
    ("metric", "step"),
    [
        ("full/hr@10", 20),
        ("shop_retrieval/validation/full/hr@10", 20),
        ("rating/rmse", 30),
        ("hr@1", None),
        ("full/ndcg@10", None),
        (None, None),
    ],
)
def test_the_best_step_is_the_first_of_the_best_on_validation(directory, metric, step):
    assert directory.best_step(metric) == step


@pytest.fixture
def of_two_domains(tmp_path):
    found = RunDirectory(tmp_path)
    for step, one, other in ((10, 0.5, 0.1), (20, 0.3, 0.4), (30, 0.1, 0.5)):
        row = {
            "one_retrieval/validation/full/hr@10": one,
            "two_retrieval/validation/full/hr@10": other,
            "two_retrieval/validation/full_unseen/hr@10": 1 - other,
            "two_retrieval/validation/full/invalid_rate": other,
        }
        found.record(step, "validation", row)
    return found


@pytest.mark.parametrize(
    ("metric", "step"),
    [
        ("full/hr@10", 20),
        ("one_retrieval/validation/full/hr@10", 10),
        ("two_retrieval/validation/full/hr@10", 30),
        ("full_unseen/hr@10", 10),
        ("full/invalid_rate", 10),
        ("hr@10", None),  # of which protocol?
    ],
)
def test_of_two_domains_the_mean_decides_unless_one_is_named(of_two_domains, metric, step):
    assert of_two_domains.best_step(metric) == step


def test_steps_that_are_made_again_are_forgotten(directory):
    directory.forget_after(15)
    assert directory.best_step("full/hr@10") == 10
    assert directory.evaluated(10)
    assert not directory.evaluated(20)
