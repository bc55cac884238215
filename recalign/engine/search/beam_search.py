"""Beam search over the catalogue: only items can come out, each at most once.

A hypothesis is a node of the catalogue's trie. Live hypotheses and complete items are kept apart,
K of each, so that a complete item can be pushed out only by a better item. Early steps are as wide
as the trie is at their depth (the first one runs on one hypothesis, not on K copies of it), and the
search ends when no live hypothesis can beat the K-th item.

Letters in shapes: B examples, K beams asked for, k live hypotheses at a step, W children of one
hypothesis, E exclusions, V vocabulary, A alphabet of the catalogue.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recalign.engine.partitioning import top_k
from recalign.engine.search.depth_loop import Cache, Grow, over_depths
from recalign.engine.search.trie import PAD, CatalogueIndex

Step = Callable[[jax.Array, Cache, jax.Array | int], tuple[jax.Array, Cache]]

MINUS_INFINITY = float("-inf")


class Ranked(NamedTuple):
    """The best items of each example, best first.

    Attributes:
        items: int32[B, K], positions in the catalogue; -1 in slots that no item could fill.
        scores: float32[B, K], log-probabilities; -inf in those slots.
    """

    items: jax.Array
    scores: jax.Array


class _Hypotheses(NamedTuple):
    """Live prefixes and complete items, between two steps.

    Attributes:
        nodes: int32[B, k], of no meaning where the score is -inf.
        tokens: int32[B, k], the vocabulary id that led to the node (the start token at the root).
        scores: float32[B, k], descending.
        cache: the decoder's cache of each prefix.
        ranks: int32[B, K], the best complete items.
        rank_scores: float32[B, K], descending; -inf in empty slots.
    """

    nodes: jax.Array
    tokens: jax.Array
    scores: jax.Array
    cache: Cache
    ranks: jax.Array
    rank_scores: jax.Array


class _Continuations(NamedTuple):
    """What may follow each hypothesis: one of its children, or the end if it is an item.

    Attributes:
        nodes: int32[B, k, W].
        log_probs: float32[B, k, W], -inf where there is no such child.
        end_log_probs: float32[B, k], -inf where the prefix is no item.
    """

    nodes: jax.Array
    log_probs: jax.Array
    end_log_probs: jax.Array


def beam_search(
    step: Step,
    cache: Cache,
    index: CatalogueIndex,
    *,
    num_beams: int,
    batch: int,
    excluded: jax.Array | None = None,
    renormalise: bool = False,
    ends_compete: bool = True,
    grow: Grow | None = None,
) -> Ranked:
    """The best items of each example by their log-probability, under `jax.jit`.

    By default an item's score is its log-probability over the full vocabulary, with no length
    penalty; EOS is included if items end with it. With at least as many beams as items the ranking
    is exact.

    Args:
        step: `(tokens int32[B, k], cache, position) -> (logits float32[B, k, V], cache)`, one step
            of the decoder for k hypotheses of equal length an example. With `renormalise` it may
            give the logits [B, k, A] of `index.alphabet` alone.
        cache: a pytree of arrays [B, 1, ...], the decoder's cache before the start token.
        index: the catalogue.
        num_beams: K.
        batch: B.
        excluded: int32[B, E], items that must not come out, padded with -1. They take up no beam,
            and the scores of the other items are what they are without exclusions.
        renormalise: take probabilities over the legal continuations only, so that those of all
            items sum to one. What is certain then costs no step: the search is over an item as soon
            as no other one shares its prefix.
        ends_compete: an item counts only if it is among the K best of its last step, prefixes of
            longer items included, as in Hugging Face's `generate`. False lets every item reached
            count: where lengths differ the result is as good or better, at the same cost.
        grow: as in `over_depths`.
    """
    seen = None if excluded is None else _excluded_ranks(index, excluded)

    def advance(state: _Hypotheses, position, frame: int, width: int) -> _Hypotheses:
        logits, cache = step(state.tokens, state.cache, position)
        follow = _continuations(index, logits, state.nodes, frame, renormalise)
        children, ranks, scores = _candidates(index, state, follow, seen, renormalise)
        state = _keep_best(index, state._replace(cache=cache), follow, children, width)
        return _collect_items(state, ranks, scores, ends_compete)

    state = _Hypotheses(
        nodes=jnp.zeros((batch, 1), jnp.int32),
        tokens=jnp.full((batch, 1), PAD, jnp.int32),
        scores=jnp.zeros((batch, 1), jnp.float32),
        cache=cache,
        ranks=jnp.zeros((batch, num_beams), jnp.int32),
        rank_scores=jnp.full((batch, num_beams), MINUS_INFINITY, jnp.float32),
    )
    widths = [min(num_beams, size) for size in live_sizes(index, renormalise)]
    state = over_depths(advance, _can_improve, state, index, widths, grow)
    found = state.rank_scores > MINUS_INFINITY
    return Ranked(jnp.where(found, index.item_of_rank[state.ranks], -1), state.rank_scores)


def live_sizes(index: CatalogueIndex, renormalise: bool) -> tuple[int, ...]:
    """How many prefixes of each depth need a step of the decoder, depth by depth."""
    sizes = index.open_sizes if renormalise else index.continued_sizes
    return (1, *(size for size in sizes[1:] if size))


def is_certain(
    index: CatalogueIndex, nodes: jax.Array | np.ndarray, renormalise: bool
) -> jax.Array | np.ndarray:
    """bool[...]: whether a prefix int32[...] is an item as it is, and needs no further step.

    With `renormalise` it is as soon as no other item shares it; else only if items end by
    themselves, where they end.
    """
    if renormalise:
        return index.end_rank[nodes] - index.first_rank[nodes] == 1
    return index.terminal[nodes] & (not index.with_eos)


def _can_improve(state: _Hypotheses) -> jax.Array:
    """bool[]: scores only fall, so a live hypothesis below the K-th item is beaten already."""
    return jnp.any(jnp.max(state.scores, axis=1) > state.rank_scores[:, -1])


def _continuations(
    index: CatalogueIndex, logits: jax.Array, nodes: jax.Array, frame: int, renormalise: bool
) -> _Continuations:
    """The log-probabilities of what may follow each hypothesis; arguments as in `normalisers`."""
    children, child_logits, end_logits = _legal_logits(index, logits, nodes, frame)
    total = normalisers(index, logits, nodes, frame, renormalise)
    return _Continuations(children, child_logits - total[..., None], end_logits - total)


def normalisers(
    index: CatalogueIndex, logits: jax.Array, nodes: jax.Array, frame: int, renormalise: bool
) -> jax.Array:
    """What to subtract from the logits of each prefix to get log-probabilities, float32[B, k].

    Args:
        index: the catalogue.
        logits: float32[B, k, V], or [B, k, A] with `renormalise`.
        nodes: int32[B, k], the prefixes.
        frame: W, at least the branching of the nodes.
        renormalise: whether probabilities are over what may legally follow, not over V.
    """
    if renormalise:
        _, child_logits, end_logits = _legal_logits(index, logits, nodes, frame)
        logits = jnp.concatenate([child_logits, end_logits[..., None]], axis=-1)
    elif _of_alphabet(index, logits):
        raise ValueError("logits of the alphabet alone do not give log-probabilities over V")
    return jax.nn.logsumexp(logits, axis=-1)


def logit_columns(index: CatalogueIndex, logits: jax.Array, codes: jax.Array) -> jax.Array:
    """Where the logits of codes int32[...] are in the last axis of `logits`."""
    return codes if _of_alphabet(index, logits) else index.alphabet[codes]


def _of_alphabet(index: CatalogueIndex, logits: jax.Array) -> bool:
    """Whether `logits` are [..., A] and not [..., V]: A < V, since no item has the token PAD."""
    return logits.shape[-1] == index.alphabet.shape[0]


def _legal_logits(index, logits, nodes, frame) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Children int32[B, k, W], their logits, and that of the end [B, k]; -inf if not legal."""
    children, exists = index.children(nodes, frame)
    columns = logit_columns(index, logits, index.code[children])
    child_logits = jnp.take_along_axis(logits, columns, axis=-1)
    child_logits = jnp.where(exists, child_logits, MINUS_INFINITY)
    # Not by an index, which XLA makes a slice of: for that each device would need all logits.
    end_logits = jnp.take(logits, logit_columns(index, logits, jnp.int32(0)), axis=-1)
    end_logits = jnp.where(index.terminal[nodes], end_logits, MINUS_INFINITY)
    return children, child_logits, end_logits


def _excluded_ranks(index: CatalogueIndex, excluded: jax.Array) -> jax.Array:
    """int32[B, E], each excluded rank once, and N (no item's rank) in the slots left over."""
    nobody = index.num_items
    ranks = jnp.where(excluded >= 0, index.rank_of_item[excluded], nobody)
    ranks = jnp.sort(ranks, axis=-1)
    again = jnp.concatenate([jnp.zeros_like(ranks[:, :1], bool), ranks[:, 1:] == ranks[:, :-1]], 1)
    return jnp.where(again, nobody, ranks)


def _are_all_excluded(first: jax.Array, end: jax.Array, seen: jax.Array) -> jax.Array:
    """bool[B, n], whether `seen` int32[B, E] has every rank from first to end, int32[B, n] each."""
    within = (seen[:, None] >= first[..., None]) & (seen[:, None] < end[..., None])
    return jnp.sum(within, axis=-1) == end - first


def _candidates(index, state, follow, seen, renormalise) -> tuple[jax.Array, ...]:
    """What one more token makes of the live hypotheses.

    Returns:
        The scores of the children, float32[B, k * W], -inf unless they are legal and still open;
        the ranks and scores of complete items, int32[B, n] and float32[B, n], -inf likewise.
    """
    child_scores = _flat(state.scores[..., None] + follow.log_probs)
    first, end = _flat(index.first_rank[follow.nodes]), _flat(index.end_rank[follow.nodes])
    ranks = index.first_rank[state.nodes]
    scores = state.scores + follow.end_log_probs
    if seen is not None:
        scores = jnp.where(_are_all_excluded(ranks, ranks + 1, seen), MINUS_INFINITY, scores)
        child_scores = jnp.where(_are_all_excluded(first, end, seen), MINUS_INFINITY, child_scores)
    if renormalise or not index.with_eos:
        certain = is_certain(index, _flat(follow.nodes), renormalise)
        ranks = jnp.concatenate([ranks, first], 1)
        scores = jnp.concatenate([scores, jnp.where(certain, child_scores, MINUS_INFINITY)], 1)
        child_scores = jnp.where(certain, MINUS_INFINITY, child_scores)
    return child_scores, ranks, scores


def _keep_best(index, state, follow, scores, width) -> _Hypotheses:
    """The `width` best children, of scores float32[B, k * W], become the live hypotheses."""
    scores, places = top_k(scores, width)
    nodes = jnp.take_along_axis(_flat(follow.nodes), places, axis=1)
    parents = places // follow.nodes.shape[-1]
    return state._replace(
        nodes=nodes,
        tokens=index.alphabet[index.code[nodes]],
        scores=scores,
        cache=select_beams(state.cache, parents),
    )


def _collect_items(state, ranks, scores, ends_compete) -> _Hypotheses:
    """Lets items just completed, [B, n], compete for the K places of `state`, already advanced."""
    places = state.ranks.shape[1]
    if ends_compete:
        everyone = jnp.concatenate([state.scores, scores], 1)
        # The last of them, taken as their least: of a top-k of which one column alone is used, XLA
        # makes a sort of the whole row, which takes 100 times as long.
        best, _ = top_k(everyone, min(places, everyone.shape[1]))
        threshold = jnp.min(best, axis=1, keepdims=True)
        scores = jnp.where(scores >= threshold, scores, MINUS_INFINITY)
    ranks = jnp.concatenate([state.ranks, ranks], 1)
    scores, best = top_k(jnp.concatenate([state.rank_scores, scores], 1), places)
    return state._replace(ranks=jnp.take_along_axis(ranks, best, axis=1), rank_scores=scores)


def select_beams(cache: Cache, beams: jax.Array) -> Cache:
    """For int32[B, j] beams, the cache [B, j, ...] of a cache [B, k, ...]."""
    return jax.tree.map(lambda leaf: jax.vmap(lambda rows, i: rows[i])(leaf, beams), cache)


def _flat(x: jax.Array) -> jax.Array:
    """[B, k, W] as [B, k * W]."""
    return x.reshape(x.shape[0], -1)
