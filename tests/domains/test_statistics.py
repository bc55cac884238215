"""The numbers of `statistics.json`, counted by hand."""

import dataclasses

import numpy as np

from recalign.domains.statistics import describe


def test_a_small_domain(small):
    assert describe(small) == {
        "users": 3,
        "items": 6,
        "interactions": 9,
        "sparsity": 0.5,
        "history_length": {"mean": 3.0, "median": 3.0, "p95": 4.8, "max": 5},
        "users_without_test": 1,
        # train has i0 i1 i2 (ann), i0 (bob), i3 (cid); the test targets are i4 and i1.
        "cold_test_items": 1,
        "cold_test_records": 1,
        "records_train": 3,
        "records_validation": 2,
        "records_test": 2,
    }


def test_what_a_user_had_twice_is_one_pair(small):
    twice = dataclasses.replace(small, events=np.zeros_like(small.events))
    assert describe(twice)["sparsity"] == round(1 - 3 / 18, 6)
