"""Retrieval by the network: histories in, ranked items of the catalogue out.

Everything is traceable: call it under `jax.jit` with the module and the options static. The encoder
runs once a history, and all hypotheses share its keys and values.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recalign.engine.network.transformer import Transformer
from recalign.engine.search.beam_search import Ranked, Step, beam_search
from recalign.engine.search.scoring import best_items, score_candidates, score_catalogue
from recalign.engine.search.trie import CatalogueIndex


class Encoded(NamedTuple):
    """Histories as the decoder sees them.

    Attributes:
        keys_values: `Transformer.project_encoded` of them.
        mask: bool[B, S], True at real tokens.
    """

    keys_values: Any
    mask: jax.Array


def encode(module: Transformer, variables: Any, encoder_input_tokens: jax.Array) -> Encoded:
    """Runs the encoder over histories int32[B, S]."""
    encoded = module.apply(variables, encoder_input_tokens, enable_dropout=False, method="encode")
    keys_values = module.apply(variables, encoded, method="project_encoded")
    return Encoded(keys_values, encoder_input_tokens > 0)


def decoder_step(
    module: Transformer, variables: Any, encoded: Encoded, alphabet: jax.Array | None = None
) -> Step:
    """The step that search and scoring take; logits are [B, k, V], or [B, k, A] of an alphabet."""

    def step(tokens, cache, position):
        inputs = (tokens, cache, position, encoded.keys_values, encoded.mask)
        if alphabet is None:
            return module.apply(variables, *inputs, method="decode_step")
        hidden, cache = module.apply(variables, *inputs, return_hidden=True, method="decode_step")
        return module.apply(variables, hidden, alphabet, method="logits"), cache

    return step


def _grow(cache: Any, length: int) -> Any:
    """The decoder's cache [B, k, T, H, D] with room for `length` positions."""

    def longer(leaf: jax.Array) -> jax.Array:
        return jnp.pad(leaf, ((0, 0), (0, 0), (0, length - leaf.shape[2]), (0, 0), (0, 0)))

    return jax.tree.map(longer, cache)


def search(
    module: Transformer,
    variables: Any,
    encoded: Encoded,
    index: CatalogueIndex,
    *,
    renormalise: bool = False,
    **options: Any,
) -> Ranked:
    """The best items of each encoded history; `options` are those of `beam_search`."""
    batch = encoded.mask.shape[0]
    return beam_search(
        decoder_step(module, variables, encoded, index.alphabet if renormalise else None),
        module.empty_cache(batch, 1, 1),
        index,
        batch=batch,
        renormalise=renormalise,
        grow=_grow,
        **options,
    )


def retrieve(
    module: Transformer,
    variables: Any,
    encoder_input_tokens: jax.Array,
    index: CatalogueIndex,
    *,
    num_beams: int,
    **options: Any,
) -> Ranked:
    """The best `num_beams` items for each history int32[B, S], 0 padded.

    `options` are those of `beam_search`: `excluded` int32[B, E], `renormalise`, `ends_compete`.
    """
    encoded = encode(module, variables, encoder_input_tokens)
    return search(module, variables, encoded, index, num_beams=num_beams, **options)


def retrieve_all_and_unseen(
    module: Transformer,
    variables: Any,
    encoder_input_tokens: jax.Array,
    index: CatalogueIndex,
    *,
    num_beams: int,
    seen: jax.Array,
    **options: Any,
) -> tuple[Ranked, Ranked]:
    """Two rankings from one pass of the encoder: of all items, and of those not in `seen`.

    Args:
        module: the network.
        variables: `{"params": …}`.
        encoder_input_tokens: int32[B, S], 0 padded.
        index: the catalogue.
        num_beams: how many items each ranking has.
        seen: int32[B, E], positions in the catalogue, padded with -1.
        **options: see `beam_search`.
    """
    encoded = encode(module, variables, encoder_input_tokens)
    options["num_beams"] = num_beams
    return (
        search(module, variables, encoded, index, **options),
        search(module, variables, encoded, index, excluded=seen, **options),
    )


def score_items(
    module: Transformer,
    variables: Any,
    encoder_input_tokens: jax.Array,
    index: CatalogueIndex,
    items: jax.Array,
    *,
    renormalise: bool = False,
    **options: Any,
) -> jax.Array:
    """The exact scores float32[B, C] of items int32[B, C] (-1 padded) for histories int32[B, S].

    `options` are those of `score_candidates`.
    """
    encoded = encode(module, variables, encoder_input_tokens)
    return score_candidates(
        decoder_step(module, variables, encoded, index.alphabet if renormalise else None),
        module.empty_cache(items.shape[0], 1, 1),
        index,
        items,
        renormalise=renormalise,
        grow=_grow,
        **options,
    )


def score_all_items(
    module: Transformer,
    variables: Any,
    encoder_input_tokens: jax.Array,
    index: CatalogueIndex,
    *,
    chunk: int,
    renormalise: bool = False,
    **options: Any,
) -> jax.Array:
    """The exact scores float32[B, N] of the whole catalogue for histories int32[B, S].

    `chunk` and `options` are those of `score_catalogue`.
    """
    encoded = encode(module, variables, encoder_input_tokens)
    batch = encoder_input_tokens.shape[0]
    return score_catalogue(
        decoder_step(module, variables, encoded, index.alphabet if renormalise else None),
        module.empty_cache(batch, 1, 1),
        index,
        batch=batch,
        chunk=chunk,
        renormalise=renormalise,
        grow=_grow,
        **options,
    )


def rank_exactly(
    module: Transformer,
    variables: Any,
    encoder_input_tokens: jax.Array,
    index: CatalogueIndex,
    *,
    num_beams: int,
    excluded: jax.Array | None = None,
    **options: Any,
) -> Ranked:
    """`retrieve` without a beam, which could miss an item; `options`: see `score_all_items`."""
    scores = score_all_items(module, variables, encoder_input_tokens, index, **options)
    return best_items(scores, num_beams, excluded)


def rank_exactly_all_and_unseen(
    module: Transformer,
    variables: Any,
    encoder_input_tokens: jax.Array,
    index: CatalogueIndex,
    *,
    num_beams: int,
    seen: jax.Array,
    **options: Any,
) -> tuple[Ranked, Ranked]:
    """`retrieve_all_and_unseen` without a beam, from one pass over the catalogue."""
    scores = score_all_items(module, variables, encoder_input_tokens, index, **options)
    return best_items(scores, num_beams), best_items(scores, num_beams, seen)
