"""What the decoder looks at as it writes an item, against a whole pass over the answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from recalign.engine.partitioning import Partitioner
from recalign.engine.search.catalogue_model import CatalogueModel
from recalign.engine.search.inference import Inference
from tests.engine.search.networks import make_network

INPUTS = [np.array(row, np.int32) for row in ([7, 9, 30, 1], [5, 5, 12, 39, 8, 1], [4, 1])]
GIVEN = [np.array(row, np.int32) for row in ([0, 0], [31, 0], [12, 6])]
ITEMS = [np.array(row, np.int32) for row in ([2, 3, 4], [3, 3], [5])]


@pytest.fixture(scope="module")
def network():
    return make_network(num_decoder_layers=2)


def looked_at(module, params):
    model = CatalogueModel(module, Partitioner(), [[2, 1], [3, 1]], Inference(length_multiple=8))
    return model.attention(params, INPUTS, GIVEN, ITEMS)


def whole_pass(module, variables, question, given, item):
    """float[S], one example alone: the rows of the positions whose outputs are the item."""
    answer = np.concatenate([given[given > 0], item])
    tokens = np.concatenate([[0], answer[:-1]])
    inputs = (jnp.array(question)[None], jnp.array(tokens)[None], jnp.array(answer)[None])
    _, kept = jax.jit(
        lambda v: module.apply(v, *inputs, enable_dropout=False, mutable=["intermediates"])
    )(variables)
    weights = [
        kept["intermediates"]["decoder"][f"layers_{i}"]["encoder_decoder_attention"]["weights"][0]
        for i in range(2)
    ]
    return np.mean(weights, axis=(0, 1, 2))[-len(item) :].mean(axis=0)


def test_it_is_that_of_a_whole_pass_over_each_answer(network):
    module, variables = network
    # Sharper than at first, when all tokens are looked at alike.
    flat = traverse_util.flatten_dict(variables["params"])
    flat = {k: 4 * v if k[-2] == "query" else v for k, v in flat.items()}
    params = traverse_util.unflatten_dict(flat)
    found = looked_at(module, params)
    assert found.shape == (3, 8)
    for row, *example in zip(found, INPUTS, GIVEN, ITEMS, strict=True):
        expected = whole_pass(module, {"params": params}, *example)
        assert expected.std() > 0.01
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-6)
        assert not row[len(expected) :].any()


def test_without_queries_all_tokens_are_looked_at_alike(network):
    module, variables = network
    flat = traverse_util.flatten_dict(variables["params"])
    flat = {k: jnp.zeros_like(v) if k[-2] == "query" else v for k, v in flat.items()}
    for row, question in zip(
        looked_at(module, traverse_util.unflatten_dict(flat)), INPUTS, strict=True
    ):
        np.testing.assert_allclose(row[: len(question)], 1 / len(question), rtol=1e-5)
