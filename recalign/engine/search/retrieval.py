"""Retrieval by the network: histories in, ranked items of the catalogue out.

Everything is traceable: call it under `jax.jit` with the module and the options static. The encoder
runs once a history, and all hypotheses share its keys and values. So they share those of `given`,
int32[B, G], the tokens that each example's answer begins with before the search does (padded with
0): they are read in one pass, and count in no score.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recalign.engine.network.transformer import Transformer
from recalign.engine.search.beam_search import Ranked, Step, beam_search
from recalign.engine.search.scoring import best_items, score_candidates, score_catalogue
from recalign.engine.search.trie import PAD, CatalogueIndex


class Encoded(NamedTuple):
    """Histories as the decoder sees them, and what it has read of their answers.

    Attributes:
        keys_values: `Transformer.project_encoded` of them.
        tokens: int32[B, S], the histories themselves.
        cache: the decoder's, [B, 1, G, …], of the start token and all given ones but the last.
        first: int32[B], where these begin; None without given tokens, when G is 0.
        last: int32[B], the decoder's next input: the last given token, or else the start token;
            None likewise.
    """

    keys_values: Any
    tokens: jax.Array
    cache: Any
    first: jax.Array | None = None
    last: jax.Array | None = None

    @property
    def length(self) -> int:
        """G, the positions taken up before those that are searched."""
        return jax.tree.leaves(self.cache)[0].shape[2]

    def grow(self, cache: Any, length: int) -> Any:
        """A cache [B, k, T, …] with room for `length` positions after these."""
        wanted = self.length + length

        def longer(leaf: jax.Array) -> jax.Array:
            return jnp.pad(leaf, ((0, 0), (0, 0), (0, wanted - leaf.shape[2]), (0, 0), (0, 0)))

        return jax.tree.map(longer, cache)


def encode(
    module: Transformer,
    variables: Any,
    encoder_input_tokens: jax.Array,
    given: jax.Array | None = None,
) -> Encoded:
    """Runs the encoder over histories int32[B, S], and the decoder over `given` int32[B, G]."""
    encoded = module.apply(variables, encoder_input_tokens, enable_dropout=False, method="encode")
    keys_values = module.apply(variables, encoded, method="project_encoded")
    if given is None or not given.shape[1]:
        cache = module.empty_cache(encoder_input_tokens.shape[0], 1, 0)
        return Encoded(keys_values, encoder_input_tokens, cache)
    tokens, first, last = _align(given)
    read = (tokens, first, keys_values, encoder_input_tokens)
    cache = module.apply(variables, *read, method="prefill")
    return Encoded(keys_values, encoder_input_tokens, cache, first, last)


def _align(answers: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What the decoder reads before the end of answers int32[B, G], 0 padded.

    Returns:
        All inputs but the last, int32[B, G], the start token first: each example's end at the same
        position; int32[B], where they begin; and the last inputs, int32[B].
    """
    length, counts = answers.shape[1], jnp.sum(answers != PAD, axis=1)
    read = jnp.pad(answers, ((0, 0), (1, 0)), constant_values=PAD)  # the start token, then these
    first = length - counts
    places = jnp.maximum(jnp.arange(length) - first[:, None], 0)
    tokens = jnp.take_along_axis(read, places, axis=1)
    return tokens, first, jnp.take_along_axis(read, counts[:, None], axis=1)[:, 0]


def look_up_attention(
    module: Transformer,
    variables: Any,
    encoder_input_tokens: jax.Array,
    answers: jax.Array,
    written: jax.Array,
) -> jax.Array:
    """How much the decoder looks at each token of a history as it writes an item, float32[B, S].

    Means of cross-attention's weights over layers, heads and the item's tokens; their sum is 1.

    Args:
        module: the network.
        variables: `{"params": …}`.
        encoder_input_tokens: int32[B, S], 0 padded.
        answers: int32[B, G], 0 padded: what is given, then the item.
        written: int32[B, G], 0 padded: as many 1 as the item has tokens.
    """
    encoded = encode(module, variables, encoder_input_tokens)
    tokens, first, _ = _align(answers)
    inputs = (tokens, first, encoded.keys_values, encoded.tokens)
    _, kept = module.apply(variables, *inputs, method="prefill", mutable=["intermediates"])
    layers = kept["intermediates"]["decoder"].values()
    found = [layer["encoder_decoder_attention"]["weights"][0] for layer in layers]
    weights = jnp.stack(found).astype(jnp.float32).mean(axis=(0, 2))  # [B, G, S]
    count = jnp.sum(written, axis=1, keepdims=True)
    last = jnp.arange(answers.shape[1]) >= answers.shape[1] - count
    return jnp.einsum("bgs,bg->bs", weights, last / jnp.maximum(count, 1))


def decoder_step(
    module: Transformer, variables: Any, encoded: Encoded, alphabet: jax.Array | None = None
) -> Step:
    """The step that search and scoring take; logits are [B, k, V], or [B, k, A] of an alphabet."""

    def step(tokens, cache, position):
        if encoded.last is not None:
            tokens = jnp.where(position == 0, encoded.last[:, None], tokens)
        position += encoded.length
        inputs = (tokens, cache, position, encoded.keys_values, encoded.tokens, encoded.first)
        return module.apply(variables, *inputs, alphabet, method="decode_step")

    return step


def _ask(
    method: Callable,
    module: Transformer,
    variables: Any,
    encoder_input_tokens: jax.Array,
    index: CatalogueIndex,
    given: jax.Array | None,
    renormalise: bool,
) -> Callable:
    """`beam_search`, `score_candidates` or `score_catalogue`, which lacks only its own options."""
    encoded = encode(module, variables, encoder_input_tokens, given)
    return functools.partial(
        method,
        decoder_step(module, variables, encoded, index.alphabet if renormalise else None),
        encoded.cache,
        index,
        renormalise=renormalise,
        grow=encoded.grow,
    )


def retrieve(
    module: Transformer,
    variables: Any,
    encoder_input_tokens: jax.Array,
    index: CatalogueIndex,
    given: jax.Array | None = None,
    *,
    exclusions: Sequence[jax.Array | None] = (None,),
    num_beams: int,
    renormalise: bool = False,
    ends_compete: bool = True,
) -> tuple[Ranked, ...]:
    """Rankings of the catalogue, one for each exclusion, from one pass of the encoder.

    Args:
        module: the network.
        variables: `{"params": …}`.
        encoder_input_tokens: int32[B, S], 0 padded.
        index: the catalogue.
        given: int32[B, G], 0 padded.
        exclusions: what a ranking leaves out, int32[B, E], positions in the catalogue, padded with
            -1; None for nothing.
        num_beams: how many items a ranking has.
        renormalise: as in `beam_search`.
        ends_compete: as in `beam_search`.
    """
    search = _ask(beam_search, module, variables, encoder_input_tokens, index, given, renormalise)
    options = {"num_beams": num_beams, "ends_compete": ends_compete}
    batch = encoder_input_tokens.shape[0]
    return tuple(search(batch=batch, excluded=excluded, **options) for excluded in exclusions)


def score_items(
    module: Transformer,
    variables: Any,
    encoder_input_tokens: jax.Array,
    index: CatalogueIndex,
    items: jax.Array,
    given: jax.Array | None = None,
    *,
    renormalise: bool = False,
) -> jax.Array:
    """The exact scores float32[B, C] of items int32[B, C] (-1 padded) for histories int32[B, S]."""
    score = _ask(
        score_candidates, module, variables, encoder_input_tokens, index, given, renormalise
    )
    return score(items)


def score_all_items(
    module: Transformer,
    variables: Any,
    encoder_input_tokens: jax.Array,
    index: CatalogueIndex,
    given: jax.Array | None = None,
    *,
    chunk: int,
    widths: tuple[int, ...] | None = None,
    renormalise: bool = False,
) -> jax.Array:
    """The exact scores float32[B, N] of the whole catalogue for histories int32[B, S].

    For the options see `score_catalogue`.
    """
    score = _ask(
        score_catalogue, module, variables, encoder_input_tokens, index, given, renormalise
    )
    return score(batch=encoder_input_tokens.shape[0], chunk=chunk, widths=widths)


def rank_exactly(
    *asked: Any,
    exclusions: Sequence[jax.Array | None] = (None,),
    num_beams: int,
    **options: Any,
) -> tuple[Ranked, ...]:
    """`retrieve` without a beam, which could miss an item, from one pass over the catalogue.

    What is not of `retrieve` is asked of `score_all_items`.
    """
    scores = score_all_items(*asked, **options)
    return tuple(best_items(scores, num_beams, excluded) for excluded in exclusions)


def recommend(
    rank: Callable,
    module: Transformer,
    variables: Any,
    encoder_input_tokens: jax.Array,
    index: CatalogueIndex,
    given: jax.Array | None = None,
    *,
    excluded: jax.Array | None = None,
    renormalise: bool = False,
    **options: Any,
) -> tuple[Ranked, jax.Array]:
    """One ranking of the catalogue, and how likely each of its items is among all.

    What both read of a history is written here twice and computed once: XLA sees that it is equal.

    Args:
        rank: `retrieve` or `rank_exactly`, of which all other arguments are.
        module: the network.
        variables: `{"params": …}`.
        encoder_input_tokens: int32[B, S], 0 padded.
        index: the catalogue.
        given: int32[B, G], 0 padded.
        excluded: int32[B, E], -1 padded: what the ranking leaves out.
        renormalise: as in `beam_search`.
        options: the others of `rank`.

    Returns:
        The ranking, and float32[B, num_beams], of which all items of the catalogue have the sum 1.
    """
    asked = module, variables, encoder_input_tokens, index
    options["renormalise"] = renormalise
    [found] = rank(*asked, given, exclusions=(excluded,), **options)
    if renormalise:
        return found, jnp.exp(found.scores)
    return found, jnp.exp(score_items(*asked, found.items, given, renormalise=True))
