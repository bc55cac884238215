"""Embeddings of items that are partly a map of what is known of the items.

With it, the table of token embeddings is own + vectors · kernel, of which `own` and the kernel are
trained, as in LightFM (Kula 2015, arXiv:1507.08439): what training says of one item, it says of all
that are like it, so that rare items learn from others. The network knows the table alone, which is
what is evaluated, saved and asked: gradients of both parts follow from those of the table, and the
optimiser turns the updates of both into one of the table.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from recalign.engine.partitioning import share
from recalign.engine.training.adafactor import wrap
from recalign.engine.training.averaging import AverageState

_TABLE = ("token_embedder", "embedding")


class SideInformationState(NamedTuple):
    """The state of `train_with_side_information`.

    Attributes:
        count: int32[], the updates so far, counted from a number of the seed's own: what a step
            leaves out is drawn by it, so that seeds leave out different tokens by one program.
        vectors: float32[vocabulary, size], never trained; 0 for tokens that nothing is known of.
        kept: bool[vocabulary], the tokens whose own part the next step does not leave out.
        kernel: float32[size, emb].
        inner: the state of the optimiser that trains both parts.
    """

    count: jax.Array
    vectors: jax.Array
    kept: jax.Array
    kernel: jax.Array
    inner: optax.OptState

    def trained_parameters(self, params: Any) -> Any:
        """Those that gradients are taken of: without the own parts that a step leaves out."""
        shared = self.vectors @ self.kernel
        table = jnp.where(self.kept[:, None], _table(params), shared)
        return _with_table(params, table)


@share
def train_with_side_information(
    optimizer: optax.GradientTransformation, size: int, dropout: float = 0.0
) -> optax.GradientTransformation:
    """An optimiser that moves embeddings along vectors of items as well as one by one.

    Vectors are 0 until `start` gives them, and what is random is that of seed 0 until `seed_state`.

    Args:
        optimizer: trains the parameters, of which `token_embedder/embedding` is the table's own
            part, and "kernel"; gradients are to be taken of `averaging.trained_parameters`.
        size: how many numbers a vector has.
        dropout: the probability that a step leaves out a token's own part, so that the other
            learns to do without it, as for an item that is new (Volkovs et al., NeurIPS 2017).
            Where nothing is known of a token, its own part stays.
    """

    def init(params: Any) -> SideInformationState:
        rows, columns = _table(params).shape
        count, kernel = _draw(0, (size, columns))
        return SideInformationState(
            count=count,
            vectors=jnp.zeros((rows, size)),
            kept=jnp.ones((rows,), bool),
            kernel=kernel,
            inner=optimizer.init({**params, "kernel": kernel}),
        )

    def update(
        gradients: Any, state: SideInformationState, params: Any
    ) -> tuple[Any, SideInformationState]:
        of_table = _table(gradients)
        own = _table(params) - state.vectors @ state.kernel
        updates, inner = optimizer.update(
            {
                **_with_table(gradients, jnp.where(state.kept[:, None], of_table, 0.0)),
                "kernel": state.vectors.T @ of_table,
            },
            state.inner,
            {**_with_table(params, own), "kernel": state.kernel},
        )
        moved = updates.pop("kernel")
        updates = _with_table(updates, _table(updates) + state.vectors @ moved)
        count = state.count + 1
        # Made here: a key from outside would be a constant on a device, and a step fetches none.
        key = jax.random.fold_in(jax.random.key(0), count)
        drawn = jax.random.bernoulli(key, dropout, state.kept.shape)
        kept = ~(drawn & jnp.any(state.vectors != 0, axis=1))
        return updates, SideInformationState(
            count, state.vectors, kept, state.kernel + moved, inner
        )

    return wrap(optimizer, init, update)


def find_state(opt_state: optax.OptState) -> SideInformationState | None:
    """The state of `train_with_side_information` within another one; None if there is none."""
    if isinstance(opt_state, SideInformationState):
        return opt_state
    return find_state(opt_state.inner) if isinstance(opt_state, AverageState) else None


def seed_state(known: SideInformationState, seed: int) -> SideInformationState:
    """The state before the first step with a seed's kernel, and its way to leave tokens out."""
    count, kernel = jax.jit(
        functools.partial(_draw, seed, known.kernel.shape),
        out_shardings=(known.count.sharding, known.kernel.sharding),
    )()
    return known._replace(count=count, kernel=kernel)


def start(opt_state: optax.OptState, known: SideInformationState) -> optax.OptState:
    """The state before the first step, of parameters that fit what is known, with that."""
    if isinstance(opt_state, SideInformationState):
        return known._replace(inner=opt_state.inner)
    return opt_state._replace(inner=start(opt_state.inner, known))


def _draw(seed: int, shape: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Where a seed counts from, int32[], and a kernel that keeps the length of vectors, float32."""
    # Fibonacci hashing: those of a thousand seeds in a row are more than a million steps apart.
    first = np.uint32(seed * 2654435769 % 2**32).astype(np.int32)
    return jnp.asarray(first), jax.random.normal(jax.random.key(seed), shape) * shape[0] ** -0.5


def _table(params: Any) -> jax.Array:
    return params[_TABLE[0]][_TABLE[1]]


def _with_table(params: Any, table: jax.Array) -> dict:
    return {**params, _TABLE[0]: {**params[_TABLE[0]], _TABLE[1]: table}}
