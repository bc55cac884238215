"""The average of the parameters, against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recalign.engine.training.adafactor import adafactor
from recalign.engine.training.averaging import average_parameters, trained_parameters

STEPS = 30


def gradients(step):
    rng = np.random.default_rng(step)
    return {"a": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "b": jnp.float32(rng.normal())}


@pytest.fixture
def params():
    return {"a": jnp.ones((3, 4)), "b": jnp.float32(2)}


@pytest.mark.parametrize("decay", [0.5, 0.998])
@pytest.mark.parametrize("inner", [optax.adam(0.1), adafactor(0.1)])
def test_the_average_is_that_of_what_the_optimiser_trains(params, inner, decay):
    optimizer = average_parameters(inner, decay)
    state, inner_state = optimizer.init(params), inner.init(params)
    average, trained, expected = params, params, jax.tree.map(np.float64, params)
    for step in range(STEPS):
        updates, state = optimizer.update(gradients(step), state, average)
        average = optax.apply_updates(average, updates)
        updates, inner_state = inner.update(gradients(step), inner_state, trained)
        trained = optax.apply_updates(trained, updates)
        kept = min(decay, (1 + step) / (10 + step))
        expected = jax.tree.map(
            lambda mean, new, kept=kept: kept * mean + (1 - kept) * np.float64(new),
            expected,
            trained,
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), average, expected)
    jax.tree.map(np.testing.assert_array_equal, trained_parameters(average, state), trained)


def test_without_an_average_the_parameters_are_trained_themselves(params):
    assert trained_parameters(params, adafactor(0.1).init(params)) is params


def test_the_learning_rate_is_still_told(params):
    assert average_parameters(adafactor(0.25)).learning_rate(7) == 0.25
    assert not hasattr(average_parameters(optax.sgd(0.1)), "learning_rate")
