"""Embeddings that are partly a map of vectors, against training of both parts by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recalign.engine.training.adafactor import adafactor
from recalign.engine.training.averaging import average_parameters, trained_parameters
from recalign.engine.training.side_information import (
    find_state,
    set_vectors,
    train_with_side_information,
)

VOCABULARY, SIZE, EMB, STEPS = 12, 5, 4, 8
RNG = np.random.default_rng(0)
VECTORS = jnp.asarray(RNG.normal(size=(VOCABULARY, SIZE)), jnp.float32).at[:3].set(0)
SEEN = jnp.asarray(RNG.normal(size=(STEPS, VOCABULARY)), jnp.float32)


@pytest.fixture
def params():
    table = jax.random.normal(jax.random.key(1), (VOCABULARY, EMB))
    return {"token_embedder": {"embedding": table}, "w": jnp.ones((EMB,))}


def loss(params, seen):
    return jnp.square(seen @ params["token_embedder"]["embedding"] @ params["w"] - 1)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("inner", [optax.adam(0.1), adafactor(0.1)])
def test_it_trains_as_two_parts_would_be(params, inner, dropout):
    optimizer = train_with_side_information(inner, SIZE, dropout, seed=3)
    state = set_vectors(optimizer.init(params), VECTORS)
    kernel, before = state.kernel, params["token_embedder"]["embedding"]

    def table(own, kernel):
        return {"token_embedder": {"embedding": own + VECTORS @ kernel}}

    own = before - VECTORS @ kernel
    parts = {"token_embedder": {"embedding": own}, "kernel": kernel, "w": params["w"]}
    parts_state, left_out = inner.init(parts), []
    for seen in SEEN:
        kept = state.kept[:, None]
        left_out.append(~np.asarray(state.kept))
        gradients = jax.grad(loss)(trained_parameters(params, state), seen)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)

        def loss_of_parts(parts, seen=seen, kept=kept):
            own = kept * parts["token_embedder"]["embedding"]
            return loss({**table(own, parts["kernel"]), "w": parts["w"]}, seen)

        updates, parts_state = inner.update(jax.grad(loss_of_parts)(parts), parts_state, parts)
        parts = optax.apply_updates(parts, updates)
    expected = table(parts["token_embedder"]["embedding"], parts["kernel"])
    found = params["token_embedder"]["embedding"]
    np.testing.assert_allclose(found, expected["token_embedder"]["embedding"], atol=2e-5)
    np.testing.assert_allclose(state.kernel, parts["kernel"], atol=2e-5)
    np.testing.assert_allclose(params["w"], parts["w"], atol=2e-5)
    assert np.abs(found - before).max() > 0.1
    np.testing.assert_array_equal(state.vectors, VECTORS)
    assert not np.any(left_out, axis=0)[:3].any()  # nothing is known of these
    share = np.mean(left_out[1:], axis=0)[3:].mean()
    assert share == pytest.approx(dropout, abs=0.2 if dropout else 0)


def test_without_vectors_it_is_the_optimiser_alone(params):
    optimizer = train_with_side_information(optax.adam(0.1), SIZE)
    state, alone, alone_params = optimizer.init(params), optax.adam(0.1), params
    alone_state = alone.init(params)
    for seen in SEEN:
        updates, state = optimizer.update(jax.grad(loss)(params, seen), state, params)
        params = optax.apply_updates(params, updates)
        updates, alone_state = alone.update(
            jax.grad(loss)(alone_params, seen), alone_state, alone_params
        )
        alone_params = optax.apply_updates(alone_params, updates)
    jax.tree.map(np.testing.assert_array_equal, params, alone_params)


def test_an_average_of_it_is_told_too(params):
    optimizer = average_parameters(train_with_side_information(adafactor(0.1), SIZE), decay=0.0)
    state = set_vectors(optimizer.init(params), VECTORS)
    np.testing.assert_array_equal(find_state(state).vectors, VECTORS)
    assert find_state(adafactor(0.1).init(params)) is None
    alone = train_with_side_information(adafactor(0.1), SIZE)
    alone_state, alone_params = set_vectors(alone.init(params), VECTORS), params
    for seen in SEEN:
        gradients = jax.grad(loss)(trained_parameters(params, state), seen)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        gradients = jax.grad(loss)(alone_params, seen)
        updates, alone_state = alone.update(gradients, alone_state, alone_params)
        alone_params = optax.apply_updates(alone_params, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        trained_parameters(params, state),
        alone_params,
    )


def test_a_seed_is_of_the_kernel_and_the_learning_rate_is_told(params):
    kernels = [
        train_with_side_information(adafactor(0.25), 400, seed=seed).init(params).kernel
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0.01
    assert np.sqrt(np.mean(np.square(kernels[0]))) == pytest.approx(400**-0.5, rel=0.05)
    assert train_with_side_information(adafactor(0.25), 3).learning_rate(7) == 0.25
