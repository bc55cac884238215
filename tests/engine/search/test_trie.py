"""The catalogue index: its trie against a plain one, its errors."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.engine.search.trie import EOS, CatalogueIndex, as_matrix
from recalign.errors import UserError

catalogues = st.lists(
    st.lists(st.integers(2, 6), max_size=5).map(tuple), min_size=1, max_size=60, unique=True
)


def build(items) -> CatalogueIndex:
    return CatalogueIndex.build([[*item, EOS] for item in items])


def prefixes(index: CatalogueIndex) -> dict[int, tuple[int, ...]]:
    """The prefix of each node, by walking the trie."""
    prefix, queue = {0: ()}, [0]
    for node in queue:
        for child in range(index.first_child[node], index.first_child[node + 1]):
            prefix[child] = (*prefix[node], int(index.alphabet[index.code[child]]))
            queue.append(child)
    return prefix


@given(catalogues)
@settings(deadline=None)
def test_nodes_are_exactly_the_prefixes(items):
    index = build(items)
    prefix = prefixes(index)
    assert len(prefix) == len(index.code) == sum(index.level_sizes)
    assert set(prefix.values()) == {item[:n] for item in items for n in range(len(item) + 1)}
    depths = [len(prefix[node]) for node in sorted(prefix)]
    assert tuple(np.bincount(depths)) == index.level_sizes
    assert index.max_length == max(map(len, items)) + 1


@given(catalogues)
@settings(deadline=None)
def test_ranks_below_a_node_are_the_items_with_its_prefix(items):
    index = build(items)
    assert sorted(index.item_of_rank) == list(range(len(items)))
    np.testing.assert_array_equal(index.item_of_rank[index.rank_of_item], np.arange(len(items)))
    for node, prefix in prefixes(index).items():
        below = index.item_of_rank[index.first_rank[node] : index.end_rank[node]]
        assert {items[i] for i in below} == {i for i in items if i[: len(prefix)] == prefix}
        assert index.terminal[node] == (prefix in items)
        if index.terminal[node]:
            assert items[below[0]] == prefix


@given(catalogues)
@settings(deadline=None)
def test_static_widths_are_tight(items):
    index = build(items)
    start = 0
    for size, branching, opened in zip(
        index.level_sizes, index.branching, index.open_sizes, strict=True
    ):
        level = slice(start, start + size)
        assert branching == np.diff(index.first_child[start : start + size + 1]).max()
        assert opened == np.sum(index.end_rank[level] - index.first_rank[level] > 1)
        start += size


@pytest.mark.parametrize("seed", range(3))
def test_descend_follows_each_item_to_its_end(seed):
    rng = np.random.default_rng(seed)
    items = sorted({tuple(rng.integers(2, 9, rng.integers(1, 6)).tolist()) for _ in range(60)})
    index = jax.device_put(build(items))
    prefix = prefixes(index)
    ranks, nodes = np.arange(len(items), dtype=np.int32), np.zeros(len(items), np.int32)
    for depth in range(1, index.max_length + 1):
        nodes, found = map(np.asarray, index.descend(nodes, ranks))
        for rank, node in enumerate(nodes):
            item = items[index.item_of_rank[rank]]
            assert found[rank] == (len(item) >= depth)
            if found[rank]:
                assert prefix[node] == item[:depth]
        nodes = np.where(found, nodes, len(index.code) - 1)  # a leaf: nothing more to find


def test_sequences_of_items():
    rows = np.array([[5, 6, 1, 0, 0], [5, 1, 0, 0, 0], [9, 2, 3, 7, 1]], np.int32)
    index = jax.device_put(CatalogueIndex.build(rows))
    items = np.array([[2, -1], [0, 1]])
    wanted = np.where(items[..., None] < 0, 0, rows[items])
    np.testing.assert_array_equal(index.sequences(items), wanted)


def test_a_matrix_and_a_ragged_list_give_the_same_index():
    matrix = np.array([[5, 6, 1, 0, 0], [5, 1, 0, 0, 0], [9, 2, 3, 1, 0]], np.int64)
    ragged = [row[row != 0] for row in matrix]
    ours, theirs = CatalogueIndex.build(matrix), CatalogueIndex.build(ragged)
    # Of a large catalogue wider numbers would take twice the memory.
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(ours)} == {"int32", "bool"}
    assert ours.level_sizes == theirs.level_sizes == (1, 2, 2, 1)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_items_may_end_by_themselves():
    rows = np.array([[5, 6, 0, 0], [5, 7, 8, 2], [9, 0, 0, 0]], np.int32)
    index = CatalogueIndex.build(rows)
    assert index.level_sizes == (1, 2, 2, 1, 1)
    assert index.continued_sizes == (1, 1, 1, 1, 0)
    assert index.max_length == 4
    assert not index.with_eos
    items = np.array([2, 0, -1, 1])
    wanted = np.where(items[:, None] < 0, 0, rows[items])
    np.testing.assert_array_equal(jax.device_put(index).sequences(items), wanted)
    jax.tree.map(
        np.testing.assert_array_equal, index, CatalogueIndex.build([row[row > 0] for row in rows])
    )


def test_a_beginning_of_another_item_needs_an_end():
    with pytest.raises(UserError, match="item 2 of the catalogue is the beginning of item 0"):
        CatalogueIndex.build([[7, 8], [4, 5], [7]])
    with pytest.raises(UserError, match="items 0 and 1"):
        CatalogueIndex.build([[7, 8], [7, 8]])
    for wrong in ([0, 7], [7, 0, 8], [-1]):
        with pytest.raises(UserError, match=r"item 1 .* expected vocabulary ids between 2 and 9"):
            CatalogueIndex.build(as_matrix([[5, 6, 7], wrong]), 9)
    with pytest.raises(UserError, match=r"item 1 .* malformed"):  # the others have an end
        CatalogueIndex.build([[7, 8, EOS], [5]])


def test_wide_alphabets_sort_lexicographically():
    rng = np.random.default_rng(0)
    rows = np.unique(rng.integers(2, 32_000, (500, 9)), axis=0)
    shuffled = rng.permutation(rows)
    index = CatalogueIndex.build(np.pad(shuffled, ((0, 0), (0, 1)), constant_values=EOS))
    np.testing.assert_array_equal(shuffled[index.item_of_rank], rows)


def test_shared_sequences_are_named():
    with pytest.raises(UserError, match=r"items 0 and 3, 1 and 4"):
        CatalogueIndex.build([[7, 8, 1], [4, 1], [7, 1], [7, 8, 1], [4, 1]])


@pytest.mark.parametrize(
    ("sequences", "complaint"),
    [
        ([], "empty"),
        ([[5, 1], [5, 6]], "item 1 .*1 of 2"),
        ([[5, 1, 6, 1]], "item 0"),
        ([[0, 5, 1]], "item 0"),
        ([[5, -3, 1]], "item 0"),
        ([[5, 1], [50, 1]], "item 1 .*between 2 and 50"),
    ],
)
def test_malformed_catalogues_are_refused(sequences, complaint):
    with pytest.raises(UserError, match=complaint):
        CatalogueIndex.build(sequences, num_vocab=50)


@pytest.mark.long
def test_ten_million_items_take_less_than_two_minutes_and_four_gib():
    script = Path(__file__).parents[2] / "benchmarks/index.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert "10000000 items of 8 tokens" in done.stdout
    seconds = [float(s) for s in re.findall(r"(?:built|kept) in ([\d.]+) s", done.stdout)]
    peaks = [float(gib) for gib in re.findall(r"peak memory ([\d.]+) GiB", done.stdout)]
    assert len(seconds) == len(peaks) == 2
    assert max(seconds) < 120
    assert max(peaks) < 4
