"""Exact scores: the log-probability of every item, or of a few candidates, for each history.

Items are evaluated together, one depth of the trie after another, so that the decoder sees each
prefix they share once. A whole catalogue goes through in chunks of neighbouring items, which share
the most and bound the memory.

Letters in shapes: B examples, C items at a time, N items of the catalogue, k distinct prefixes of
one depth, V vocabulary, A alphabet of the catalogue.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recalign.engine.partitioning import top_k
from recalign.engine.search.beam_search import (
    MINUS_INFINITY,
    Ranked,
    Step,
    is_certain,
    live_sizes,
    logit_columns,
    normalisers,
    select_beams,
)
from recalign.engine.search.depth_loop import Cache, Grow, over_depths
from recalign.engine.search.trie import PAD, CatalogueIndex


class _Partial(NamedTuple):
    """Items scored up to some depth. Items ascend in rank, so those that share a prefix adjoin.

    Attributes:
        nodes: int32[B, k], the distinct prefixes to be continued, of no meaning in spare slots.
        cache: the decoder's cache of each prefix.
        places: int32[B, C], which of these prefixes each item is at.
        unfinished: bool[B, C], whether the item goes on.
        scores: float32[B, C], so far.
    """

    nodes: jax.Array
    cache: Cache
    places: jax.Array
    unfinished: jax.Array
    scores: jax.Array


def score_candidates(
    step: Step,
    cache: Cache,
    index: CatalogueIndex,
    items: jax.Array,
    *,
    renormalise: bool = False,
    grow: Grow | None = None,
) -> jax.Array:
    """The exact scores of the given items, float32[B, C]; -inf where there is no item.

    Args:
        step: as in `beam_search`; here the k hypotheses are the prefixes of the items.
        cache: a pytree of arrays [B, 1, ...], the decoder's cache before the start token.
        index: the catalogue.
        items: int32[B, C], positions in the catalogue, padded with -1; an item may come twice.
        renormalise: as in `beam_search`.
        grow: as in `over_depths`.
    """
    # Padding ranks last, as one more item that ends at once.
    ranks = jnp.where(items >= 0, index.rank_of_item[items], index.num_items)
    order = jnp.argsort(ranks, axis=1)
    ranks = jnp.take_along_axis(ranks, order, axis=1)
    widths = [min(items.shape[1], size) for size in live_sizes(index, renormalise)]
    scores = _score_ranks(step, cache, index, ranks, widths, renormalise, grow)
    return jnp.take_along_axis(scores, jnp.argsort(order, axis=1), axis=1)


def score_catalogue(
    step: Step,
    cache: Cache,
    index: CatalogueIndex,
    *,
    batch: int,
    chunk: int,
    widths: tuple[int, ...] | None = None,
    renormalise: bool = False,
    grow: Grow | None = None,
) -> jax.Array:
    """The exact score of every item of the catalogue, float32[B, N].

    Args:
        step: as in `score_candidates`.
        cache: as in `score_candidates`.
        index: the catalogue.
        batch: B.
        chunk: how many items are evaluated at a time. Memory is that of B × chunk hypotheses; in
            full-vocabulary scores their logits, B × chunk × V × 4 bytes, are most of it.
        widths: `chunk_widths` of the index, computed outside of `jax.jit`: how many prefixes a
            chunk really has. Without it, bounds are used that may be too wide by a half.
        renormalise: as in `beam_search`.
        grow: as in `over_depths`.
    """
    chunk = min(chunk, index.num_items)
    if widths is None:
        widths = tuple(min(chunk, size) for size in live_sizes(index, renormalise))
    chunks = -(-index.num_items // chunk)

    def score(first: jax.Array) -> jax.Array:
        ranks = jnp.minimum(first + jnp.arange(chunk, dtype=jnp.int32), index.num_items)
        ranks = jnp.broadcast_to(ranks, (batch, chunk))
        return _score_ranks(step, cache, index, ranks, widths, renormalise, grow)

    scores = jax.lax.map(score, chunk * jnp.arange(chunks, dtype=jnp.int32))  # [chunks, B, chunk]
    return jnp.moveaxis(scores, 0, 1).reshape(batch, -1)[:, index.rank_of_item]


def chunk_widths(index: CatalogueIndex, chunk: int, renormalise: bool = False) -> tuple[int, ...]:
    """The most prefixes that a chunk of neighbouring items has at each depth, in numpy."""
    starts = np.arange(0, index.num_items, chunk)
    stops = np.minimum(starts + chunk, index.num_items)
    widths, offset = [], 0
    for size, level_size in zip(live_sizes(index, renormalise), index.level_sizes, strict=False):
        nodes = np.arange(offset, offset + level_size)
        if size < level_size:
            nodes = nodes[~np.asarray(is_certain(index, nodes, renormalise))]
        first, end = np.asarray(index.first_rank[nodes]), np.asarray(index.end_rank[nodes])
        within = np.searchsorted(first, stops) - np.searchsorted(end, starts, side="right")
        widths.append(max(1, int(within.max())))
        offset += level_size
    return tuple(widths)


def best_items(scores: jax.Array, num_items: int, excluded: jax.Array | None = None) -> Ranked:
    """The `num_items` best of scores float32[B, N], without those in `excluded` int32[B, E]."""
    if excluded is not None:
        places = jnp.where(excluded >= 0, excluded, scores.shape[1])
        drop = jax.vmap(lambda row, gone: row.at[gone].set(MINUS_INFINITY, mode="drop"))
        scores = drop(scores, places)
    if scores.shape[1] < num_items:
        spare = ((0, 0), (0, num_items - scores.shape[1]))
        scores = jnp.pad(scores, spare, constant_values=MINUS_INFINITY)
    scores, items = top_k(scores, num_items)
    return Ranked(jnp.where(scores > MINUS_INFINITY, items, -1), scores)


def _score_ranks(
    step: Step,
    cache: Cache,
    index: CatalogueIndex,
    ranks: jax.Array,
    widths: Sequence[int],
    renormalise: bool,
    grow: Grow | None,
) -> jax.Array:
    """The scores float32[B, C] of ascending ranks int32[B, C], N where there is no item."""
    present = ranks < index.num_items
    state = _Partial(
        nodes=jnp.zeros((ranks.shape[0], 1), jnp.int32),
        cache=cache,
        places=jnp.zeros_like(ranks),
        unfinished=present,
        scores=jnp.where(present, 0.0, MINUS_INFINITY),
    )

    def advance(state: _Partial, position, frame: int, width: int) -> _Partial:
        tokens = index.alphabet[index.code[state.nodes]]
        logits, cache = step(jnp.where(position == 0, PAD, tokens), state.cache, position)
        total = normalisers(index, logits, state.nodes, frame, renormalise)
        state, children = _add_token(index, state, ranks, logits, total, renormalise)
        return _move_to(state, children, cache, width)

    def goes_on(state: _Partial) -> jax.Array:
        return jnp.any(state.unfinished)

    return over_depths(advance, goes_on, state, index, widths, grow).scores


def _add_token(index, state, ranks, logits, total, renormalise) -> tuple[_Partial, jax.Array]:
    """Adds each item's next token to its score, and gives the node it leads to, int32[B, C].

    Args:
        index: the catalogue.
        state: before this token.
        ranks: int32[B, C].
        logits: float32[B, k, V], or [B, k, A] with `renormalise`.
        total: float32[B, k], the `normalisers` of the logits.
        renormalise: as in `is_certain`.
    """
    nodes = jnp.take_along_axis(state.nodes, state.places, axis=1)
    children, goes_on = index.descend(nodes, ranks)
    columns = logit_columns(index, logits, jnp.where(goes_on, index.code[children], 0))
    pick = jax.vmap(lambda rows, row, column: rows[row, column])
    log_probs = pick(logits, state.places, columns)
    log_probs -= jnp.take_along_axis(total, state.places, axis=1)
    scores = jnp.where(state.unfinished, state.scores + log_probs, state.scores)
    goes_on &= ~is_certain(index, children, renormalise)
    return state._replace(scores=scores, unfinished=state.unfinished & goes_on), children


def _move_to(state, children, cache, width) -> _Partial:
    """Makes the distinct ones of `children` int32[B, C], of unfinished items, the next prefixes."""
    batch, items = children.shape
    same = (children[:, 1:] == children[:, :-1]) & state.unfinished[:, :-1]
    fresh = state.unfinished.at[:, 1:].set(state.unfinished[:, 1:] & ~same)
    places = jnp.maximum(jnp.cumsum(fresh, axis=1, dtype=jnp.int32) - 1, 0)
    rows = jnp.arange(batch)[:, None]
    leaders = jnp.zeros((batch, width), jnp.int32)  # the first item at each prefix
    leaders = leaders.at[rows, jnp.where(fresh, places, width)].set(
        jnp.arange(items, dtype=jnp.int32), mode="drop"
    )
    return state._replace(
        nodes=jnp.take_along_axis(children, leaders, axis=1),
        cache=select_beams(cache, jnp.take_along_axis(state.places, leaders, axis=1)),
        places=places,
    )
