"""Greedy decoding: what the network answers when nothing tells it what it may answer."""

from typing import Any

import jax
import jax.numpy as jnp

from recalign.engine.network.transformer import Transformer
from recalign.engine.search.retrieval import decoder_step, encode
from recalign.engine.search.trie import EOS, PAD


def generate_greedily(
    module: Transformer,
    variables: Any,
    encoder_input_tokens: jax.Array,
    length: int,
) -> jax.Array:
    """The likeliest next token, again and again, int32[B, length].

    What follows EOS is padding; a row without EOS was not finished within `length` tokens.

    Args:
      module: the network.
      variables: `{"params": …}`.
      encoder_input_tokens: int32[B, S], 0 padded.
      length: at most so many tokens are generated, EOS included.
    """
    encoded = encode(module, variables, encoder_input_tokens)
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
