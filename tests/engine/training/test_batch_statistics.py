"""What a batch is made of, packed or not."""

import jax.numpy as jnp
import numpy as np
import pytest

from recalign.engine.training.batch_statistics import count, row_text

# Two examples in a row: whole and cut; then one that says nothing, beside padding.
INPUTS = [[5, 6, 1, 7, 8, 9], [1, 0, 0, 0, 0, 0]]
INPUT_SEGMENTS = [[1, 1, 1, 2, 2, 2], [1, 0, 0, 0, 0, 0]]
TARGETS = [[4, 1, 1, 0], [3, 3, 3, 1]]
TARGET_SEGMENTS = [[1, 1, 2, 0], [1, 1, 1, 1]]


@pytest.fixture
def batch():
    return {
        "encoder_input_tokens": np.array(INPUTS),
        "encoder_segment_ids": np.array(INPUT_SEGMENTS),
        "decoder_target_tokens": np.array(TARGETS),
        "decoder_segment_ids": np.array(TARGET_SEGMENTS),
    }


def test_examples_are_counted_where_they_are_packed(batch):
    found = count({name: jnp.array(values) for name, values in batch.items()})
    assert {name: float(value) for name, value in found.items()} == {
        "tokens": 7 + 7,
        "examples": 3,
        "truncated_inputs": 1,
        "empty_inputs": 1,
        "truncated_targets": 0,
        "empty_targets": 1,
    }


def test_without_packing_an_example_is_a_row():
    found = count(
        {
            "encoder_input_tokens": jnp.array([[5, 6, 1, 0], [7, 8, 9, 2]]),
            "decoder_target_tokens": jnp.array([[4, 1], [1, 0]]),
        }
    )
    assert float(found["examples"]) == 2
    assert float(found["truncated_inputs"]) == 1
    assert float(found["empty_targets"]) == 1


def test_targets_that_end_without_eos_are_not_cut_unless_they_fill_a_row():
    targets = np.array([[4, 5, 6, 0], [7, 8, 9, 7]])
    batch = {"encoder_input_tokens": np.ones((2, 1), int), "decoder_target_tokens": targets}
    found = count({name: jnp.array(values) for name, values in batch.items()})
    assert float(found["truncated_targets"]) == 1
    segments = {"encoder_segment_ids": np.ones((2, 1), int)}
    segments["decoder_segment_ids"] = np.array([[1, 1, 2, 0], [1, 1, 1, 1]])
    batch = {name: jnp.array(values) for name, values in (batch | segments).items()}
    found = count(batch)
    assert float(found["examples"]) == 3
    assert float(found["truncated_targets"]) == 1


def test_a_row_is_written_example_by_example(batch):
    def decode(tokens):
        return " ".join(map(str, tokens))

    assert row_text(batch, 0, decode) == (
        "row 0\n  inputs: 5 6 1\n  targets: 4 1\n  inputs: 7 8 9\n  targets: 1\n"
    )
