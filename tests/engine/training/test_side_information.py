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
    seed_state,
    start,
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


def with_vectors(opt_state, seed=0):
    known = seed_state(find_state(opt_state), seed)
    return start(opt_state, known._replace(vectors=VECTORS))


def loss(params, seen):
    return jnp.square(seen @ params["token_embedder"]["embedding"] @ params["w"] - 1)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("inner", [optax.adam(0.1), adafactor(0.1)])
def test_it_trains_as_two_parts_would_be(params, inner, dropout):
    optimizer = train_with_side_information(inner, SIZE, dropout)
    state = with_vectors(optimizer.init(params), seed=3)
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
    state = with_vectors(optimizer.init(params))
    np.testing.assert_array_equal(find_state(state).vectors, VECTORS)
    assert find_state(adafactor(0.1).init(params)) is None
    alone = train_with_side_information(adafactor(0.1), SIZE)
    alone_state, alone_params = with_vectors(alone.init(params)), params
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


def test_a_seed_is_of_the_kernel_and_of_what_is_left_out(params):
    """By one optimiser, whose program serves all seeds; what it begins with is that of seed 0."""
    optimizer = train_with_side_information(adafactor(0.25), SIZE, dropout=0.5)
    begun = jax.jit(optimizer.init)(params)  # as a run does, which rounds otherwise
    jax.tree.map(np.testing.assert_array_equal, seed_state(begun, 0), begun)
    still = jax.tree.map(jnp.zeros_like, params)

    def left_out(seed):
        state, found = with_vectors(begun, seed), []
        for _ in range(STEPS):
            _, state = optimizer.update(still, state, params)
            found.append(~np.asarray(state.kept))
        return np.array(found)

    one, same, other = map(left_out, (1, 1, 2**40))
    np.testing.assert_array_equal(one, same)
    assert 0.2 < np.mean(one[:, 3:] != other[:, 3:]) < 0.8
    # Nor does one seed leave out at some step what another one does a few steps later.
    zero = left_out(0)
    assert not any(np.array_equal(zero[:-n], one[n:]) for n in range(1, STEPS - 1))


def test_a_kernel_keeps_lengths_and_the_learning_rate_is_told(params):
    begun = train_with_side_information(adafactor(0.25), 400).init(params)
    zero, one = (seed_state(begun, seed).kernel for seed in (0, 1))
    assert np.abs(zero - one).max() > 0.01
    for kernel in (zero, one):
        assert np.sqrt(np.mean(np.square(kernel))) == pytest.approx(400**-0.5, rel=0.05)
    assert train_with_side_information(adafactor(0.25), 3).learning_rate(7) == 0.25
