"""The catalogue as a static index: every item's token sequence in one flat trie.

The nodes are the prefixes of the items' sequences, numbered level by level and, within a level, in
lexicographic order. So the children of a node are a run of consecutive nodes, the items below a
node are a run of consecutive ranks (an item's rank is its place in lexicographic order), and two
offsets a node say everything. No table has the size of the vocabulary times anything.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from recalign.errors import UserError

PAD = 0  # fills rows after the end of a sequence; also the decoder's start token
EOS = 1

_static = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CatalogueIndex:
    """A trie of M prefixes over N items whose tokens come from an alphabet of A tokens.

    Node 0 is the empty prefix. The end-of-sequence token is no edge: a node whose prefix is a whole
    item is `terminal`, and that item has the first rank below it. Where no item is the beginning of
    another, sequences may do without that token: each ends by itself.

    Attributes:
        code: int32[M], the last token of the prefix as an index into `alphabet` (0 for the root).
        first_child: int32[M + 1]; the children of node n are first_child[n] .. first_child[n + 1].
        first_rank: int32[M], the first rank below the node.
        end_rank: int32[M], one past the last rank below the node.
        terminal: bool[M], whether the prefix is itself an item.
        item_of_rank: int32[N].
        rank_of_item: int32[N].
        alphabet: int32[A], vocabulary ids; entry 0 is the end-of-sequence token, the rest ascend.
        level_sizes: the number of nodes at each depth.
        continued_sizes: the number of nodes at each depth that a token follows, be it
            end-of-sequence; that is all of them unless items end by themselves.
        open_sizes: the number of nodes at each depth with more than one item below.
        branching: the largest number of children of a node at each depth.
    """

    code: jax.Array
    first_child: jax.Array
    first_rank: jax.Array
    end_rank: jax.Array
    terminal: jax.Array
    item_of_rank: jax.Array
    rank_of_item: jax.Array
    alphabet: jax.Array
    level_sizes: tuple[int, ...] = dataclasses.field(metadata=_static)
    continued_sizes: tuple[int, ...] = dataclasses.field(metadata=_static)
    open_sizes: tuple[int, ...] = dataclasses.field(metadata=_static)
    branching: tuple[int, ...] = dataclasses.field(metadata=_static)

    @classmethod
    def build(
        cls, sequences: np.ndarray | Sequence[Sequence[int]], num_vocab: int | None = None
    ) -> Self:
        """Builds the index of a catalogue, in numpy; `jax.device_put` moves it to a device.

        Args:
            sequences: one sequence of vocabulary ids an item, each ending with EOS, or none: an int
                array [N, L] padded with PAD (the form for millions of items), or a ragged list.
            num_vocab: the size of the vocabulary, to check the ids against.

        Raises:
            UserError: a sequence is malformed, or two items share one, or one is the beginning of
                another and no EOS tells them apart; the message gives positions.
        """
        tokens = as_matrix(sequences)
        check(tokens, num_vocab)
        with_eos = _with_eos(tokens)
        alphabet, codes = _remap(tokens)
        item_of_rank = _lexicographic_order(codes, len(alphabet))
        levels, first_child = _trie_levels(codes, item_of_rank)
        if not with_eos:
            _check_ends(levels, item_of_rank)
        rank_of_item = np.empty_like(item_of_rank)
        rank_of_item[item_of_rank] = np.arange(len(item_of_rank), dtype=np.int32)
        starts = np.cumsum([0] + [len(level.code) for level in levels])
        return cls(
            code=np.concatenate([level.code for level in levels]),
            first_child=first_child,
            first_rank=np.concatenate([level.first_rank for level in levels]),
            end_rank=np.concatenate([level.end_rank for level in levels]),
            terminal=np.concatenate([level.terminal for level in levels]),
            item_of_rank=item_of_rank,
            rank_of_item=rank_of_item,
            alphabet=alphabet,
            level_sizes=tuple(len(level.code) for level in levels),
            continued_sizes=tuple(
                int(np.count_nonzero(with_eos | ~level.terminal)) for level in levels
            ),
            open_sizes=tuple(
                int(np.count_nonzero(level.end_rank - level.first_rank > 1)) for level in levels
            ),
            branching=tuple(
                int(np.diff(first_child[start : stop + 1]).max())
                for start, stop in itertools.pairwise(starts)
            ),
        )

    @property
    def num_items(self) -> int:
        """N, the size of the catalogue."""
        return self.item_of_rank.shape[0]

    @property
    def max_length(self) -> int:
        """The most tokens an item has, EOS included: the decoding steps that suffice."""
        return len(self.level_sizes) - (not self.with_eos)

    @property
    def with_eos(self) -> bool:
        """Whether EOS ends each item."""
        return self.continued_sizes[-1] > 0

    def children(self, nodes: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
        """The children of each node, in a frame of `width` (at least the nodes' branching).

        Args:
            nodes: int32[...].
            width: the size of the frame, W.

        Returns:
            Nodes int32[..., W] and bool[..., W], false where the frame is wider than the family;
            the node there is within bounds and of no meaning.
        """
        slots = self.first_child[nodes][..., None] + jnp.arange(width, dtype=jnp.int32)
        exists = slots < self.first_child[nodes + 1][..., None]
        return jnp.where(exists, slots, 0), exists

    def descend(self, nodes: jax.Array, ranks: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The child of each node on the path to the item of the given rank.

        Args:
            nodes: int32[...], prefixes of the items.
            ranks: int32[...], ranks below those nodes.

        Returns:
            Nodes int32[...] and bool[...], false where the item ends at its node (or is not below
            it); the node there is within bounds and of no meaning.
        """
        low, high = self.first_child[nodes], self.first_child[nodes + 1]
        for _ in range(max(self.branching).bit_length()):  # bisection: first_rank ascends
            middle = (low + high) // 2
            left = (middle < high) & (jnp.take(self.first_rank, middle, mode="clip") <= ranks)
            low, high = jnp.where(left, middle + 1, low), jnp.where(left, high, middle)
        child = jnp.maximum(low - 1, 0)
        found = (low > self.first_child[nodes]) & (ranks < self.end_rank[child])
        return child, found

    def sequences(self, items: jax.Array) -> jax.Array:
        """The token sequences of items int32[...], as given to `build`, int32[..., L] PAD padded.

        L is `max_length`; where the item is negative, all is padding.
        """
        ranks = jnp.take(self.rank_of_item, items, mode="clip")
        nodes, columns, goes_on = jnp.zeros_like(ranks), [], items >= 0
        for _ in range(self.max_length):
            children, found = self.descend(nodes, ranks)
            tokens = self.alphabet[jnp.where(found, self.code[children], 0)]
            columns.append(jnp.where(goes_on & (found | self.with_eos), tokens, PAD))
            goes_on, nodes = goes_on & found, children
        return jnp.stack(columns, axis=-1)


@dataclasses.dataclass(frozen=True)
class _Level:
    """The nodes of one depth; fields as in `CatalogueIndex`."""

    code: np.ndarray
    first_rank: np.ndarray
    end_rank: np.ndarray
    terminal: np.ndarray


def as_matrix(sequences: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
    """int[N, L] rows padded with PAD, from such a matrix or from a ragged list."""
    if isinstance(sequences, np.ndarray) and sequences.ndim == 2:
        return sequences
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    matrix = np.full((len(lengths), lengths.max(initial=0)), PAD, dtype=np.int32)
    if len(lengths):
        held = np.arange(matrix.shape[1]) < lengths[:, None]
        matrix[held] = np.concatenate([np.asarray(row, dtype=np.int32) for row in sequences])
    return matrix


def check(tokens: np.ndarray, num_vocab: int | None) -> None:
    """Raises unless each row is: no, one or more tokens of the vocabulary, one EOS, then PAD.

    Where no row holds EOS, each must be: one or more tokens, then PAD.
    """
    if not len(tokens):
        raise UserError("the catalogue is empty: there is no item to retrieve")
    end = EOS if _with_eos(tokens) else PAD
    ended = np.zeros(len(tokens), dtype=bool)
    bad = np.zeros(len(tokens), dtype=bool)
    for place, column in enumerate(tokens.T):
        bad |= np.where(ended, column != PAD, (column <= PAD) & (column != end))
        if num_vocab is not None:
            bad |= column >= num_vocab
        ended |= column == end
        if end == PAD and not place:
            bad |= ended
    if end == EOS:
        bad |= ~ended
    if bad.any():
        item = int(np.flatnonzero(bad)[0])
        mark = f"then one end-of-sequence token ({EOS}), " if end == EOS else ""
        raise UserError(
            f"item {item} of the catalogue has the token sequence {tokens[item].tolist()}: "
            f"expected vocabulary ids between 2 and {num_vocab or 'the size of the vocabulary'}, "
            f"{mark}then only padding ({PAD}); "
            f"{int(bad.sum())} of {len(tokens)} items are malformed"
        )


def _with_eos(tokens: np.ndarray) -> bool:
    return bool((tokens == EOS).any())


def _remap(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The alphabet int32[A], and codes unsigned[L', N]: 0 from EOS on, else an alphabet index.

    Where rows end with EOS, the last column holds EOS or PAD and is left out. Mapping both to 0
    keeps rows distinct, and sorts an item before those it is a prefix of.
    """
    occurs = np.zeros(int(tokens.max()) + 1, dtype=bool)
    for column in tokens.T:
        occurs[column] = True
    occurs[[PAD, EOS]] = False
    alphabet = np.concatenate([[EOS], np.flatnonzero(occurs)]).astype(np.int32)
    code_of_token = np.zeros(len(occurs), dtype=np.min_scalar_type(len(alphabet) - 1))
    code_of_token[alphabet[1:]] = np.arange(1, len(alphabet))
    length = tokens.shape[1] - _with_eos(tokens)
    codes = np.empty((length, len(tokens)), dtype=code_of_token.dtype)
    for depth, row in enumerate(codes):  # by column: no second matrix of int64 indices
        np.take(code_of_token, tokens[:, depth], out=row)
    return alphabet, codes


def _lexicographic_order(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """int32[N], the items in lexicographic order of their codes [L, N].

    As many codes as fit are packed into one word of 64 bits; the words are sorted last to first.
    """
    bits = max(1, (num_codes - 1).bit_length())
    per_word = 64 // bits
    order = None
    for start in reversed(range(0, len(codes), per_word)):
        word = np.zeros(codes.shape[1], dtype=np.uint64)
        for row in codes[start : start + per_word]:
            word <<= np.uint64(bits)
            word |= row
        step = np.argsort(word if order is None else word[order], kind="stable")
        order = step if order is None else order[step]
    return np.zeros(codes.shape[1], np.int32) if order is None else order.astype(np.int32)


def _trie_levels(codes: np.ndarray, order: np.ndarray) -> tuple[list[_Level], np.ndarray]:
    """The nodes depth by depth, and first_child int32[M + 1] over all of them."""
    num_items = len(order)
    root = _Level(
        code=np.zeros(1, np.int32),
        first_rank=np.zeros(1, np.int32),
        end_rank=np.full(1, num_items, np.int32),
        terminal=np.array([not len(codes) or codes[0, order[0]] == 0]),
    )
    levels, first_child, num_nodes = [root], [], 1
    differs = np.zeros(num_items, dtype=bool)  # from the item of the rank before, up to this depth
    differs[0] = True
    column = codes[0][order] if len(codes) else None
    for depth in range(len(codes)):
        following = codes[depth + 1][order] if depth + 1 < len(codes) else None
        differs[1:] |= column[1:] != column[:-1]
        starts = np.flatnonzero(differs).astype(np.int32)
        stops = np.append(starts[1:], np.int32(num_items))
        continues = column[starts] > 0
        if not continues.any():
            break
        starts, stops = starts[continues], stops[continues]
        terminal = np.ones(len(starts), bool) if following is None else following[starts] == 0
        parents = levels[-1].first_rank
        first_child.append((num_nodes + np.searchsorted(starts, parents)).astype(np.int32))
        levels.append(_Level(column[starts].astype(np.int32), starts, stops, terminal))
        num_nodes += len(starts)
        column = following
    if not differs.all():
        _raise_shared(order, differs)
    first_child.append(np.full(len(levels[-1].code) + 1, num_nodes, np.int32))
    return levels, np.concatenate(first_child)


def _check_ends(levels: Sequence[_Level], order: np.ndarray) -> None:
    """Raises if an item is the beginning of another: without EOS it would never end."""
    for level in levels:
        begins = level.terminal & (level.end_rank - level.first_rank > 1)
        if begins.any():
            rank = level.first_rank[np.flatnonzero(begins)[0]]
            raise UserError(
                f"item {order[rank]} of the catalogue is the beginning of item {order[rank + 1]}, "
                "so that it needs an end-of-sequence token to be told from it: set "
                "item_texts.add_eos to True"
            )


def _raise_shared(order: np.ndarray, differs: np.ndarray) -> None:
    """Raises the error for items whose sequence is that of the item of the rank before."""
    second = np.flatnonzero(~differs)
    pairs = sorted(zip(order[second - 1].tolist(), order[second].tolist(), strict=True))
    named = ", ".join(f"{one} and {other}" for one, other in pairs[:5])
    more = f", and {len(pairs) - 5} more" if len(pairs) > 5 else ""
    raise UserError(
        f"items of the catalogue share a token sequence, so neither can be retrieved: items {named}"
        f"{more} (positions in the catalogue, from 0)"
    )
