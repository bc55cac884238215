"""The softmax of attention, whose backward pass is written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recalign.engine.network.config import T5Config
from recalign.engine.network.layers import MASKED, Attention, attend

BATCH, HEADS, QUERIES, KEYS, WIDTH = 3, 2, 5, 7, 4


def plain(query, key, value, bias, mask):
    """Attention as it is defined, left to JAX to differentiate."""
    logits = jnp.einsum("bqhd,bshd->bhqs", query, key)
    logits = logits if bias is None else logits + bias
    weights = jax.nn.softmax(jnp.where(mask, logits, MASKED), axis=-1)
    return jnp.einsum("bhqs,bshd->bqhd", weights, value)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_gradients_are_those_of_the_definition(biased, dtype, tolerance):
    """A query of which every key is masked (padding) is among them."""
    draw = np.random.default_rng(0)
    shapes = [(BATCH, QUERIES, HEADS, WIDTH), *[(BATCH, KEYS, HEADS, WIDTH)] * 2]
    # Numbers that bfloat16 has too: what differs is made on the way.
    arrays = [
        jnp.asarray(draw.normal(size=shape), "bfloat16").astype("float32") for shape in shapes
    ]
    bias = jnp.asarray(draw.normal(size=(1, HEADS, QUERIES, KEYS)), "float32") if biased else None
    mask = jnp.asarray(draw.random((BATCH, 1, QUERIES, KEYS)) < 0.7).at[0, 0, 1].set(False)
    towards = jnp.asarray(draw.normal(size=shapes[0]), "float32")

    def loss(attention, dtype):
        def of(query, key, value, bias):
            given = [x.astype(dtype) for x in (query, key, value)]
            return jnp.sum(attention(*given, bias) * towards)

        return jax.grad(of, argnums=(0, 1, 2, 3) if biased else (0, 1, 2))

    ours = loss(lambda q, k, v, b: attend(q, k, v, mask, b), dtype)(*arrays, bias)
    wanted = loss(lambda q, k, v, b: plain(q, k, v, b, mask), "float32")(*arrays, bias)
    for found, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        assert found.dtype == jnp.float32
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


def test_bfloat16_keeps_no_logits():
    """Of the arrays of every query and key, the backward pass is given one, in bfloat16."""
    query, key = (jnp.ones((BATCH, length, HEADS, WIDTH), "bfloat16") for length in (QUERIES, KEYS))
    mask, bias = jnp.ones((BATCH, 1, 1, KEYS), bool), jnp.ones((1, HEADS, QUERIES, KEYS))
    _, pull = jax.vjp(lambda *given: attend(*given, mask, bias), query, key, key)
    shape = (BATCH, HEADS, QUERIES, KEYS)
    kept = [leaf.dtype for leaf in jax.tree.leaves(pull) if leaf.shape == shape]
    assert {*kept} == {jnp.dtype("bfloat16")}


def test_dropout_drops_a_key_for_all_queries():
    """As T5 drops weights: each key's are 0, or divided by the rate that is kept."""
    length, rate = 64, 0.25
    config = T5Config(
        vocab_size=8, emb_dim=length, num_heads=1, head_dim=length, mlp_dim=1,
        num_encoder_layers=1, num_decoder_layers=1, dropout_rate=rate,
    )  # fmt: skip
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(1, QUERIES, length)), "float32")
    key = jnp.asarray(draw.normal(size=(1, length, 1, length)), "float32")
    value = jnp.eye(length)[None, :, None]  # what comes out is the weights
    mask = jnp.ones((1, 1, 1, length), bool)
    params = {name: {"kernel": jnp.eye(length)} for name in ("query", "key", "value", "out")}

    def weights(**options):
        return Attention(config).apply({"params": params}, x, (key, value), mask, **options)[0]

    dropped = weights(deterministic=False, rngs={"dropout": jax.random.key(0)})
    kept = np.any(dropped != 0, axis=0)
    assert 0.5 < kept.mean() < 0.95
    np.testing.assert_allclose(dropped, weights() * kept / (1 - rate), rtol=1e-6)
