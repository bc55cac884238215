"""Runs the equal layers of a stack, scanned or one by one, keeping or recomputing activations.

Parameters stay one tree a layer, under T5X's names, whatever is chosen here: checkpoints, layouts
and the optimiser's arithmetic never see a stacked array. A scan stacks them inside the step, in the
activations' dtype, so that the program holds one layer instead of all; the price is one copy of the
layers in that dtype. Compiling XL's step for a CPU takes a third of the time.

XLA for CPUs merges recomputed values with the kept ones again, unless the layers are scanned.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from recalign.errors import UserError

Array = jax.Array

# What the backward pass finds of the forward pass; the names are T5X's.
REMAT_POLICIES: dict[str, Callable | None] = {
    "none": None,  # everything
    "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # products with weights
    "full": jax.checkpoint_policies.nothing_saveable,  # the input of each layer
}


def run_layers(
    layers: Sequence[nn.Module],
    call: Callable[[nn.Module, Array], Array],
    x: Array,
    dropout: Array | None,
    *,
    dtype: Any,
    scan: bool = False,
    remat_policy: str = "none",
) -> Array:
    """Sends x through bound layers of one class and one configuration.

    Args:
        layers: in order, with their parameters.
        call: `(layer, x) -> x` of the same shape and dtype. It may close over masks and the like.
        x: [B,L,E].
        dropout: random key, or None for none.
        dtype: the activations'; a scan stacks the parameters in it.
        scan: compile one layer, and loop over the stacked parameters.
        remat_policy: one of `REMAT_POLICIES`.
    """
    if remat_policy not in REMAT_POLICIES:
        raise UserError(
            f"T5Config.remat_policy is {remat_policy!r}: expected one of {list(REMAT_POLICIES)}"
        )
    if not layers or (remat_policy == "none" and not scan):
        for layer in layers:
            x = call(layer, x)
        return x

    pure = layers[0].clone(parent=None, name=None)

    def one(x, inputs):
        params, key = inputs
        rngs = {} if key is None else {"dropout": key}
        return nn.apply(call, pure)({"params": params}, x, rngs=rngs)

    if (policy := REMAT_POLICIES[remat_policy]) is not None:
        one = jax.checkpoint(one, policy=policy, prevent_cse=not scan)
    params = [layer.variables["params"] for layer in layers]
    keys = None if dropout is None else jax.random.split(dropout, len(layers))
    if scan:
        stacked = jax.tree.map(
            lambda *leaves: jnp.stack([p.astype(dtype) for p in leaves]), *params
        )
        return jax.lax.scan(lambda x, inputs: (one(x, inputs), None), x, (stacked, keys))[0]
    for i, layer_params in enumerate(params):
        x = one(x, (layer_params, None if keys is None else keys[i]))
    return x


def run_stack(
    stack: nn.Module,
    call: Callable[[nn.Module, Array], Array],
    x: Array,
    deterministic: bool,
    one_by_one: bool = False,
) -> Array:
    """Sends x [B,L,E] through the `layers` of a bound stack, as its `config` wants it."""
    cfg = stack.config
    # Layers that make variables, parameters at first or a cache, cannot be pure functions.
    if one_by_one or stack.is_initializing():
        return run_layers(stack.layers, call, x, None, dtype=cfg.dtype)
    no_dropout = deterministic or not cfg.dropout_rate
    return run_layers(
        stack.layers,
        call,
        x,
        None if no_dropout else stack.make_rng("dropout"),
        dtype=cfg.dtype,
        scan=cfg.scan_layers,
        remat_policy=cfg.remat_policy,
    )
