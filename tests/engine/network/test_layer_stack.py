"""Scanned and recomputed layers: same parameters, same results, same gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from recalign.engine.network.layer_stack import run_layers
from recalign.engine.network.transformer import Transformer
from recalign.errors import UserError
from tests.engine.losses import batch_loss

VARIANTS = [
    {"scan_layers": True},
    {"scan_layers": True, "remat_policy": "full"},
    {"remat_policy": "minimal"},
]


@pytest.fixture(scope="module")
def model(tiny_model):
    """One decoder layer is enough, and compiles sooner."""
    return variant_of(tiny_model[0], num_decoder_layers=1)


@pytest.fixture(scope="module")
def params(tiny_model):
    params = {**tiny_model[1]}
    params["decoder"] = {k: v for k, v in params["decoder"].items() if k != "layers_1"}
    return params


@pytest.fixture(scope="module")
def batch(case):
    """With tokens that the tiny vocabulary has."""
    return {name: np.minimum(value, 39) for name, value in case.batch(0).items()}


@pytest.fixture(scope="module")
def expected(model, params, batch):
    return loss_and_gradient(model, params, batch)


def loss_and_gradient(model, params, batch):
    def loss(params):
        logits = model.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            enable_dropout=False,
        )
        return batch_loss(logits, batch)[0]

    return jax.jit(jax.value_and_grad(loss))(params)


def variant_of(model, **changes):
    return Transformer(dataclasses.replace(model.config, **changes))


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_are_the_same(model, params, batch, expected, variant):
    loss, gradient = loss_and_gradient(variant_of(model, **variant), params, batch)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
    for one, two in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5 * np.abs(two).max())


def test_parameters_and_their_axes_keep_their_names(model):
    tokens = jnp.ones((1, 4), jnp.int32)

    def made(model):
        return jax.eval_shape(
            lambda: model.init(jax.random.key(0), tokens, tokens, tokens, enable_dropout=False)
        )

    assert made(variant_of(model, scan_layers=True, remat_policy="full")) == made(model)


def test_each_scanned_layer_draws_its_own_dropout():
    class Draw(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.param("unused", nn.initializers.zeros, ())
            return x + jax.random.normal(self.make_rng("dropout"), x.shape)

    bound = [Draw(name=None).bind({"params": {"unused": jnp.zeros(())}}) for _ in range(3)]

    def run(seed):
        return run_layers(
            bound,
            lambda layer, x: layer(x),
            jnp.zeros(4),
            jax.random.key(seed),
            dtype="float32",
            scan=True,
        )

    keys = jax.random.split(jax.random.key(0), 3)
    one = [
        Draw().apply({"params": {"unused": 0.0}}, jnp.zeros(4), rngs={"dropout": k}) for k in keys
    ]
    np.testing.assert_allclose(run(0), sum(one), atol=1e-6)  # of values around 1
    assert not np.array_equal(one[0], one[1])


def test_a_scan_compiles_one_layer(tiny_model):
    tokens = jnp.ones((2, 4), jnp.int32)

    def lines(depth, scan):
        model = variant_of(
            tiny_model[0], num_encoder_layers=depth, num_decoder_layers=1, scan_layers=scan
        )
        params = jax.eval_shape(
            lambda: model.init(jax.random.key(0), tokens, tokens, tokens, enable_dropout=False)
        )
        forward = jax.jit(lambda v: model.apply(v, tokens, tokens, tokens, enable_dropout=False))
        return forward.lower(params).as_text().count("dot_general")

    assert lines(6, scan=True) == lines(3, scan=True)
    assert lines(6, scan=False) > lines(3, scan=False)


def test_recomputing_keeps_less(model, params, batch):
    def kept(policy):
        changed = variant_of(model, remat_policy=policy)

        def loss(params):
            logits = changed.apply(
                {"params": params},
                batch["encoder_input_tokens"],
                batch["decoder_input_tokens"],
                batch["decoder_target_tokens"],
                enable_dropout=False,
            )
            return batch_loss(logits, batch)[0]

        pullback = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pullback))

    assert kept("full") < kept("minimal") < kept("none")


def test_an_unknown_policy_is_named(model, params, batch):
    with pytest.raises(UserError, match="remat_policy is 'some'"):
        loss_and_gradient(variant_of(model, remat_policy="some"), params, batch)
