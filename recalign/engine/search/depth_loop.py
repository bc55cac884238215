"""Runs a decoder down the catalogue's trie, one depth a step, paying for what each depth needs."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recalign.engine.search.trie import CatalogueIndex

Cache = Any  # a pytree of arrays [B, k, ...]
Grow = Callable[[Cache, int], Cache]
State = Any  # a NamedTuple with a field `cache`

SHORTEST_LOOP = 16


def over_depths(
    advance: Callable[[State, jax.Array | int, int, int], State],
    goes_on: Callable[[State], jax.Array],
    state: State,
    index: CatalogueIndex,
    widths: Sequence[int],
    grow: Grow | None = None,
) -> State:
    """Advances a state from the root to the last depth, or until it need not go on.

    The first depths, where the trie is still narrow, are compiled one by one, each with its own
    width. From the depth on where no later one is wider, there is a loop of one width, or several
    in a row, each with room for twice the tokens.

    Args:
        advance: `(state, position, frame, width) -> state`: one step of the decoder at `position`
            for prefixes with up to `frame` children, after which there are `width` prefixes.
        goes_on: `state -> bool[]`, whether there is more to do.
        state: at the root, with one prefix.
        index: the catalogue.
        widths: the number of prefixes at each depth.
        grow: `(cache, length) -> cache` makes room for `length` positions. Without it the cache has
            room for all from the beginning.
    """

    def with_room(state: State, length: int) -> State:
        return state._replace(cache=grow(state.cache, length)) if grow else state

    depths = len(widths)
    head = next(depth for depth in range(depths) if widths[depth] == max(widths[depth:]))
    for depth in range(head):
        state = with_room(state, depth + 1)
        state = advance(state, depth, index.branching[depth], widths[depth + 1])

    position = jnp.int32(head)
    for start, end in _loops(head, depths) if grow else [(head, depths)]:
        frame = max(1, *index.branching[start:end])

        def is_unfinished(carry, end=end):
            position, state = carry
            return (position < end) & goes_on(state)

        def body(carry, frame=frame):
            position, state = carry
            return position + 1, advance(state, position, frame, widths[head])

        carry = (position, with_room(state, end))
        position, state = jax.lax.while_loop(is_unfinished, body, carry)
    return state


def _loops(start: int, depths: int) -> Iterator[tuple[int, int]]:
    """Where each loop starts and ends; ends double."""
    end = SHORTEST_LOOP
    while start < depths:
        if end > start:
            yield start, min(end, depths)
            start = end
        end *= 2
