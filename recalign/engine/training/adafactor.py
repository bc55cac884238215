"""Adafactor (Shazeer & Stern, ICML 2018, arXiv:1804.04235) as T5X computes it.

Optax's pieces compute what T5X's do for parameters of at most two axes: the same factoring rule
(both axes of at least 128), decay 1 - (t+1)^-0.8, clipping of the update's RMS at 1, and steps
relative to the parameter's RMS of at least 1e-3. Where `optax.adafactor` differs, T5X's side is
taken:

* Gradients become float32 before they are squared; Optax squares them in their own dtype.
* T5X treats parameters of three and more axes (its stacked layers) by rules of their own. Ours
  have at most two, also when layers are scanned, see `recalign.engine.network.layer_stack`.
* Optax fixes epsilon2, the least parameter scale, at 1e-3; here it is an argument. Its piece for
  that scale is also differentiable, for which it reads each parameter three times.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from recalign.engine.partitioning import share
from recalign.errors import UserError, quote


class Optimizer(NamedTuple):
    """An `optax.GradientTransformation` that tells its learning rate.

    Attributes:
        init: see Optax.
        update: see Optax.
        learning_rate: of the update after so many others, float32[].
    """

    init: Callable
    update: Callable
    learning_rate: optax.Schedule


def wrap(
    inner: optax.GradientTransformation, init: Callable, update: Callable
) -> optax.GradientTransformation:
    """An optimiser around another one, whose learning rate it tells if that one does."""
    if isinstance(inner, Optimizer):
        return Optimizer(init, update, inner.learning_rate)
    return optax.GradientTransformation(init, update)


@share
def adafactor(
    learning_rate: optax.ScalarOrSchedule,
    *,
    decay_rate: float = 0.8,
    step_offset: int = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: float | None = 1.0,
    factored: bool = True,
    min_dim_size_to_factor: int = 128,
    epsilon1: float = 1e-30,
    epsilon2: float = 1e-3,
    beta1: float | None = None,
    weight_decay_rate: float | None = None,
) -> Optimizer:
    """Adafactor; the arguments are named as T5X's.

    Args:
        learning_rate: relative to the parameter's RMS, a number or a schedule.
        decay_rate: c in the second moment's decay 1 - (t+1)^-c.
        step_offset: the step at which t is 0.
        multiply_by_parameter_scale: make steps relative to max(epsilon2, RMS of the parameter).
        clipping_threshold: the largest RMS of an update before the learning rate; None for any.
        factored: keep row and column means of the second moment where both axes are large.
        min_dim_size_to_factor: what large is.
        epsilon1: added to squared gradients.
        epsilon2: least parameter scale.
        beta1: momentum; None for none, and no memory for it.
        weight_decay_rate: share of the parameter taken off each step, whatever the learning rate.

    Raises:
        UserError: the learning rate is neither.
    """
    rate = _as_schedule(learning_rate)
    pieces = [
        _as_float32(),
        optax.scale_by_factored_rms(
            factored=factored,
            decay_rate=decay_rate,
            step_offset=step_offset,
            min_dim_size_to_factor=min_dim_size_to_factor,
            epsilon=epsilon1,
        ),
    ]
    if clipping_threshold is not None:
        pieces.append(optax.clip_by_block_rms(clipping_threshold))
    if multiply_by_parameter_scale:
        pieces.append(_scale_by_parameter_rms(epsilon2))
    pieces.append(optax.scale_by_learning_rate(learning_rate, flip_sign=False))
    if beta1 is not None:
        pieces.append(optax.ema(beta1, debias=False, accumulator_dtype=jnp.float32))
    if weight_decay_rate is not None:
        pieces.append(optax.add_decayed_weights(weight_decay_rate))
    return Optimizer(*optax.chain(*pieces, optax.scale(-1.0)), rate)


def _as_schedule(learning_rate: optax.ScalarOrSchedule) -> optax.Schedule:
    is_made = callable(learning_rate)
    rate = learning_rate if is_made else optax.constant_schedule(learning_rate)
    found: list[object] = []
    try:
        jax.eval_shape(lambda step: found.append(rate(step)), jax.ShapeDtypeStruct((), jnp.int32))
    except TypeError as error:  # a function that makes one is given, not what it makes
        raise UserError(f"adafactor.learning_rate cannot be asked of a step: {error}") from error
    [value] = found
    if not isinstance(value, jax.Array | np.number | float | int) or jnp.ndim(value) > 0:
        given = f"what makes a {type(value).__name__} of a step" if is_made else quote(value)
        raise UserError(
            f"adafactor.learning_rate is {given}, but must be a number, or a function that makes "
            "one of a step"
        )
    return rate


def count_updates(opt_state: optax.OptState) -> int:
    """How many updates an `Optimizer` has made, whatever is wrapped around it, by its state."""

    def is_one(node: object) -> bool:
        return isinstance(node, optax.FactoredState)

    [found] = filter(is_one, jax.tree.leaves(opt_state, is_leaf=is_one))
    return int(found.count)


def _scale_by_parameter_rms(least: float) -> optax.GradientTransformation:
    def scale(update, param):
        rms = jnp.sqrt(jnp.mean(jnp.square(param)))
        return update * jnp.maximum(rms, least)

    return optax.stateless(lambda updates, params: jax.tree.map(scale, updates, params))


def _as_float32() -> optax.GradientTransformation:
    def cast(g):
        return g.astype(jnp.promote_types(g.dtype, jnp.float32))

    return optax.stateless(lambda updates, params: jax.tree.map(cast, updates))
