"""Examples of all lengths, batch by batch: nothing is lost, swapped, or seen by its neighbour."""

import jax.numpy as jnp
import numpy as np
import pytest

from recalign.engine.partitioning import Partitioner
from recalign.engine.search.batching import Ragged, over_examples


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
    assert {shape[1] for shape, _ in shapes} <= {4, 8, 12}
