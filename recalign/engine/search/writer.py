"""Greedy decoding: what the network writes when nothing tells it what it may write."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recalign.engine.network.transformer import Transformer
from recalign.engine.partitioning import Partitioner
from recalign.engine.search.batching import Ragged, over_examples
from recalign.engine.search.retrieval import decoder_step, encode
from recalign.engine.search.trie import EOS, PAD


def write_greedily(
    module: Transformer,
    variables: Any,
    encoder_input_tokens: jax.Array,
    length: int,
    given: jax.Array | None = None,
) -> jax.Array:
    """The likeliest next token, again and again, int32[B, length].

    What follows EOS is padding; a row without EOS was not finished within `length` tokens.

    Args:
      module: the network.
      variables: `{"params": …}`.
      encoder_input_tokens: int32[B, S], 0 padded.
      length: at most so many tokens are written, EOS included.
      given: int32[B, G], 0 padded, what the answer begins with; it is not written again.
    """
    encoded = encode(module, variables, encoder_input_tokens, given)
    step = decoder_step(module, variables, encoded)
    batch = encoder_input_tokens.shape[0]

    def goes_on(state) -> jax.Array:
        position, _, ended, _, _ = state
        return (position < length) & ~jnp.all(ended)

    def advance(state):
        position, token, ended, written, cache = state
        logits, cache = step(token[:, None], cache, position)
        token = jnp.where(ended, PAD, jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32))
        written = jax.lax.dynamic_update_slice_in_dim(written, token[:, None], position, axis=1)
        return position + 1, token, ended | (token == EOS), written, cache

    state = (
        jnp.int32(0),
        jnp.full(batch, PAD, jnp.int32),
        jnp.all(encoder_input_tokens == PAD, axis=1),  # a row that only fills up the batch
        jnp.full((batch, length), PAD, jnp.int32),
        encoded.grow(encoded.cache, length),
    )
    return jax.lax.while_loop(goes_on, advance, state)[3]


class Writer:
    """Writes an answer to every question, compiled once for each shape.

    Args:
      module: the network.
      partitioner: lays parameters and batches out.
      batch_size: questions answered at once.
      length_multiple: what input lengths are rounded up to.
    """

    def __init__(
        self,
        module: Transformer,
        partitioner: Partitioner,
        batch_size: int = 64,
        length_multiple: int = 128,
    ):
        self._partitioner = partitioner
        self._batch_size = batch_size
        self._multiple = length_multiple
        self._write = jax.jit(
            functools.partial(write_greedily, module),
            static_argnames="length",
            out_shardings=partitioner.sharding(),
        )

    def write(self, params: Any, inputs: Sequence[np.ndarray], length: int) -> np.ndarray:
        """Token ids int32[m, length] as of `write_greedily`; `inputs` as for `Retriever.rank`."""

        def write(batch: Mapping[str, jax.Array]) -> jax.Array:
            return self._write({"params": params}, batch["inputs"], length=length)

        features = {"inputs": Ragged(inputs, self._multiple, 0)}
        return over_examples(write, features, self._partitioner, self._batch_size, "writing")
