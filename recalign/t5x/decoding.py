"""The constrained beam search in the form of T5X's `decode_fn`; T5X itself is not imported."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util

from recalign.engine.search.beam_search import beam_search
from recalign.engine.search.trie import EOS, PAD, CatalogueIndex

_COUNTERS = ("cache_index", "position_embedder_index")  # the position, the same for all examples
_CONSTANTS = ("cached_bias",)


class DecodingState(NamedTuple):
    """What T5X hands to `tokens_to_logits`; field names are T5X's.

    Attributes:
        cur_index: int32[], the position.
        sequences: not kept here.
        cur_token: int32[B * K, 1].
        cache: the flax collection, example-major with K beams an example.
    """

    cur_index: jax.Array | int
    sequences: None
    cur_token: jax.Array
    cache: Mapping[str, Any]


def constrained_decode_fn(
    index: CatalogueIndex, *, renormalise: bool = False, ends_compete: bool = True
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """A `decode_fn` for T5X's `EncoderDecoderModel` that gives nothing but items of the catalogue.

    T5X repeats the encoder's output for each beam and fixes their number, so that early steps run
    on K hypotheses of which some are idle; results are those of `recalign.engine.search.retrieval`.
    What answers begin with comes as `inputs`, as T5X's `prompt_with_targets` has it: the start
    token, the given ones, padding. T5X counts one position for all examples: those that are given
    as many tokens take a step together, and those that are given another number after them.

    Options are those of `beam_search`.

    Returns:
        A function that gives sequences int32[B, K, L] (EOS included, then padding; empty slots are
        all padding) and scores float32[B, K], in T5X's order: the best comes last. Exclusions
        int32[B, E] go in as `decoder_params={"excluded": …}`.
    """

    def decode_fn(
        inputs: jax.Array,
        cache: Mapping[str, Any],
        tokens_to_logits: Callable[[DecodingState], tuple[jax.Array, Mapping[str, Any]]],
        eos_id: int,
        num_decodes: int = 4,
        max_decode_len: int | None = None,
        decode_rng: jax.Array | None = None,
        cache_offset: int = 0,
        excluded: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        del decode_rng
        batch, length = inputs.shape[0], max_decode_len or inputs.shape[1]
        if eos_id != EOS or cache_offset:
            raise ValueError(
                f"eos_id = {eos_id} and cache_offset = {cache_offset}: "
                f"expected {EOS}, as in the catalogue, and 0, a decoder without scanned layers"
            )
        if length < index.max_length:
            raise ValueError(
                f"the feature 'targets' has length {length}, but the longest item of the catalogue "
                f"has {index.max_length} tokens"
            )
        leaves = traverse_util.flatten_dict(dict(cache))
        common = {path: leaf for path, leaf in leaves.items() if path[-1] in _COUNTERS + _CONSTANTS}

        def decode(tokens, cache, position):
            beams = tokens.shape[1]
            merge = _merge_beams(num_decodes)
            merged = {path: merge(leaf) for path, leaf in cache.items()}
            for path, leaf in common.items():
                counts = path[-1] in _COUNTERS
                merged[path] = jnp.full_like(leaf, position) if counts else leaf
            merged = traverse_util.unflatten_dict(merged)
            state = DecodingState(position, None, merge(tokens)[:, None], merged)
            logits, new = tokens_to_logits(state)
            new = traverse_util.flatten_dict(dict(new))
            split = _split_beams(batch, beams)
            return split(logits), {path: split(new[path]) for path in cache}

        given = jnp.sum(inputs != PAD, axis=1, dtype=jnp.int32)
        last = jnp.take_along_axis(inputs, given[:, None], axis=1)

        def read(position, cache):
            tokens = jax.lax.dynamic_index_in_dim(inputs, position, axis=1)
            new = decode(tokens, cache, position)[1]
            # T5X's network adds to its cache: what is not given must leave nothing there.
            return jax.tree.map(functools.partial(_where, position < given), new, cache)

        def step(tokens, cache, depth):
            tokens = jnp.where(depth == 0, last, tokens)

            def take(number, found):
                now = given == number

                def decode_given():
                    new = decode(tokens, cache, number + depth)
                    return jax.tree.map(functools.partial(_where, now), new, found)

                return jax.lax.cond(jnp.any(now), decode_given, lambda: found)

            shapes = jax.eval_shape(decode, tokens, cache, 0)
            nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            return jax.lax.fori_loop(jnp.min(given), jnp.max(given) + 1, take, nothing)

        root = {path: leaf[:, None] for path, leaf in leaves.items() if path not in common}
        items, scores = beam_search(
            step,
            jax.lax.fori_loop(0, jnp.max(given), read, root),
            index,
            num_beams=num_decodes,
            batch=batch,
            excluded=excluded,
            renormalise=renormalise,
            ends_compete=ends_compete,
        )
        sequences = index.sequences(items)
        sequences = jnp.pad(sequences, ((0, 0), (0, 0), (0, length - sequences.shape[-1])))
        return sequences[:, ::-1], scores[:, ::-1]

    return decode_fn


def _where(chosen: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """[B, ...]: `new` for the examples that are chosen, bool[B], and `old` for the others."""
    return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _merge_beams(beams: int) -> Callable[[jax.Array], jax.Array]:
    """From [B, k, ...] to [B * beams, ...], with zeros for the beams that are missing."""

    def merge(x: jax.Array) -> jax.Array:
        spare = [(0, 0), (0, beams - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
        return jnp.pad(x, spare).reshape(-1, *x.shape[2:])

    return merge


def _split_beams(batch: int, beams: int) -> Callable[[jax.Array], jax.Array]:
    """From [B * K, ...] to the first `beams` of each example, [B, beams, ...]."""

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(batch, -1, *x.shape[1:])[:, :beams]

    return split
