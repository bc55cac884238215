"""A running average of the parameters, which is what is evaluated, saved and asked.

With it, `TrainState.params` is the average, so that whatever reads parameters reads that one; the
parameters that gradients are taken of are a part of the optimiser's state.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recalign.engine.partitioning import share
from recalign.engine.training.adafactor import wrap


class AverageState(NamedTuple):
    """The state of `average_parameters`.

    Attributes:
        count: int32[], the updates so far.
        trained: the parameters that are trained.
        inner: the state of the optimiser that trains them.
    """

    count: jax.Array
    trained: Any
    inner: optax.OptState

    def trained_parameters(self, params: Any) -> Any:
        """Those that gradients are taken of, not their average."""
        return trained_parameters(self.trained, self.inner)


@share
def average_parameters(
    optimizer: optax.GradientTransformation, decay: float = 0.998
) -> optax.GradientTransformation:
    """An optimiser whose updates move the average of the parameters that another one trains.

    After t updates, the share of the average that the next one keeps is min(decay, (1 + t) /
    (10 + t)), as in TensorFlow's `ExponentialMovingAverage` with `num_updates`: without it, an
    average over hundreds of steps would be that of random parameters at first.

    Args:
        optimizer: trains the parameters; gradients are to be taken of `trained_parameters`.
        decay: of the average, at most.
    """

    def init(params: Any) -> AverageState:
        # A copy, since a step takes over the memory of both.
        trained = jax.tree.map(jnp.copy, params)
        return AverageState(jnp.zeros((), jnp.int32), trained, optimizer.init(params))

    def update(gradients: Any, state: AverageState, params: Any) -> tuple[Any, AverageState]:
        updates, inner = optimizer.update(gradients, state.inner, state.trained)
        trained = optax.apply_updates(state.trained, updates)
        kept = jnp.minimum(decay, (1.0 + state.count) / (10.0 + state.count))
        moves = jax.tree.map(lambda new, old: (1 - kept) * (new - old), trained, params)
        return moves, AverageState(state.count + 1, trained, inner)

    return wrap(optimizer, init, update)


def trained_parameters(params: Any, opt_state: optax.OptState) -> Any:
    """The parameters that gradients are taken of: `params`, unless the optimiser keeps others."""
    others = getattr(opt_state, "trained_parameters", None)
    return others(params) if others else params
