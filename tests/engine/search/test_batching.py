"""Examples of all lengths, batch by batch: nothing is lost, swapped, or seen by its neighbour."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from recalign.engine import preemption
from recalign.engine.partitioning import Partitioner
from recalign.engine.search.batching import Ragged, over_examples, rung, rungs


@pytest.mark.parametrize("size", [1, 4, 7, 50])
def test_results_stand_in_the_order_of_the_examples(size):
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 9, rng.integers(0, 12)) for _ in range(23)]
    others = [rng.integers(0, 9, rng.integers(0, 5)) for _ in range(23)]
    shapes = set()

    def compute(batch):
        shapes.add((batch["rows"].shape, batch["others"].shape))
        return {
            "sum": jnp.sum(batch["rows"], axis=1),
            "some": jnp.sum(batch["others"] >= 0, axis=1, keepdims=True),
        }

    features = {"rows": Ragged(rows, 4, 0), "others": Ragged(others, 8, -1)}
    found = over_examples(compute, features, Partitioner(), size, "testing")
    assert found["sum"].tolist() == [row.sum() for row in rows]
    assert found["some"][:, 0].tolist() == [len(row) for row in others]
    assert {shape[0] for shape, _ in shapes} == {size}
    assert {shape[1] for shape, _ in shapes} <= {4, 8, 16}
    assert {shape[1] for _, shape in shapes} == {8}


def test_lengths_are_few_and_waste_is_bounded():
    assert rungs(100, 32) == [32, 64, 128]
    assert rungs(512, 128, halfway=True) == [128, 256, 384, 512]
    assert rungs(2048, 128, halfway=True)[4:] == [768, 1024, 1536, 2048]
    for halfway in (False, True):
        lengths = rungs(2048, 128, halfway)
        assert [rung(length, 128, halfway) for length in lengths] == lengths
    for size in range(300):
        double, finer = rung(size, 8), rung(size, 8, halfway=True)
        assert size <= finer <= double < max(9, 2 * size)
        assert finer in (8, 16) or finer <= 1.5 * size + 1
    assert len(rungs(10**4, 8)) == 12


def test_those_of_similar_lengths_go_together_and_each_batch_may_be_the_last(monkeypatch):
    """By the first feature's lengths, then the next one's."""
    shapes, points = [], []
    monkeypatch.setattr(preemption, "safe_point", lambda: points.append(len(shapes)))

    def compute(batch):
        shapes.append((batch["rows"].shape[1], batch["others"].shape[1]))
        return batch["rows"][:, :1]

    sizes = list(itertools.product((1, 8), (1, 1, 4, 4)))[::-1]
    rows, others = zip(*((np.ones(one), np.ones(other)) for one, other in sizes), strict=True)
    features = {"rows": Ragged(rows, 1, 0), "others": Ragged(others, 1, 0)}
    over_examples(compute, features, Partitioner(), 2, "testing")
    assert shapes == [(1, 1), (1, 4), (8, 1), (8, 4)]
    assert points == [0, 1, 2, 3]


def test_one_batch_is_computed_while_another_is_fetched():
    """The second one has begun before the first one's results are waited for."""
    told = []

    class Result:
        def __init__(self, number):
            self.number = number
            told.append(("begun", number))

        def __array__(self, dtype=None, copy=None):
            told.append(("fetched", self.number))
            return np.full((2, 1), self.number)

    def compute(batch):
        return Result(len([t for t in told if t[0] == "begun"]))

    rows = [np.ones(1, np.int32)] * 6
    found = over_examples(compute, {"rows": Ragged(rows, 4, 0)}, Partitioner(), 2, "testing")
    assert found[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert told == [
        (w, n)
        for w, n in (
            ("begun", 0),
            ("begun", 1),
            ("fetched", 0),
            ("begun", 2),
            ("fetched", 1),
            ("fetched", 2),
        )
    ]
