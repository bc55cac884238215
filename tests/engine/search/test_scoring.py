"""Exact scores, against the network's teacher-forced logits taken one item at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recalign.engine.search.retrieval import retrieve, score_all_items, score_items
from recalign.engine.search.scoring import best_items, chunk_widths
from recalign.engine.search.trie import EOS, PAD, CatalogueIndex
from tests.engine.search.networks import make_network

HISTORIES = np.array([[7, 9, 30, 1, 0, 0], [5, 5, 12, 39, 8, 1]], np.int32)
STATIC = ("chunk", "widths", "renormalise")

score_catalogue = jax.jit(score_all_items, static_argnums=0, static_argnames=STATIC)
score_candidates = jax.jit(score_items, static_argnums=0, static_argnames="renormalise")
search = jax.jit(retrieve, static_argnums=0, static_argnames=("num_beams", "renormalise"))


@pytest.fixture(scope="module")
def model():
    return make_network(num_decoder_layers=1)


@pytest.fixture(scope="module")
def items():
    """About 60 items, of which some are prefixes of others, and one is long."""
    rng = np.random.default_rng(0)
    draw = (tuple(rng.integers(2, 6, rng.integers(1, 6)).tolist()) for _ in range(60))
    return [(5, 3, *[2] * 18), *sorted(set(draw), key=hash)]


@pytest.fixture(scope="module")
def index(items):
    return jax.device_put(CatalogueIndex.build([[*item, EOS] for item in items]))


@pytest.fixture(scope="module")
def oracle(model, items):
    """A function of `renormalise`: float64[B, N], from one teacher-forced pass a history."""
    return teacher_forced(model, [(*item, EOS) for item in items])


def teacher_forced(model, sequences):
    module, variables = model
    targets = np.full((len(sequences), max(map(len, sequences))), PAD, np.int32)
    for row, sequence in zip(targets, sequences, strict=True):
        row[: len(sequence)] = sequence
    inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    each = jax.vmap(
        lambda history: module.apply(
            variables,
            jnp.broadcast_to(history, (len(sequences), len(history))),
            inputs,
            targets,
            enable_dropout=False,
        )
    )
    logits = np.asarray(jax.jit(each)(HISTORIES), np.float64)

    def log_probability(logits, sequence, renormalise):
        total = 0.0
        for position, token in enumerate(sequence):
            prefix = sequence[:position]
            legal = {s[position] for s in sequences if s[:position] == prefix}
            support = sorted(legal) if renormalise else slice(None)
            total += logits[position, token] - np.log(np.exp(logits[position, support]).sum())
        return total

    def scores(renormalise):
        return np.array(
            [
                [log_probability(*pair, renormalise) for pair in zip(rows, sequences, strict=True)]
                for rows in logits
            ]
        )

    return scores


@pytest.mark.parametrize(("chunk", "renormalise"), [(7, False), (7, True), (1000, False)])
def test_every_item_has_its_teacher_forced_score(model, index, oracle, renormalise, chunk):
    options = {"chunk": chunk, "renormalise": renormalise}
    if chunk < index.num_items:
        options["widths"] = chunk_widths(index, chunk, renormalise)
    scores = score_catalogue(*model, HISTORIES, index, **options)
    np.testing.assert_allclose(scores, oracle(renormalise), atol=1e-4)
    if renormalise:
        np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("renormalise", [False, True])
def test_candidates_of_each_history(model, index, oracle, renormalise):
    rng = np.random.default_rng(0)
    candidates = rng.integers(-1, index.num_items, (len(HISTORIES), 9)).astype(np.int32)
    candidates[:, 3] = candidates[:, 5]  # the same item twice
    options = {"renormalise": renormalise}
    scores = score_candidates(*model, HISTORIES, index, candidates, **options)
    wanted = np.take_along_axis(oracle(renormalise), np.maximum(candidates, 0), axis=1)
    np.testing.assert_allclose(scores, np.where(candidates < 0, -np.inf, wanted), atol=1e-4)


@pytest.mark.parametrize("renormalise", [False, True])
def test_beams_for_all_items_rank_as_exact_scores_do(model, index, oracle, renormalise):
    options = {"num_beams": 64, "renormalise": renormalise}
    [found] = search(*model, HISTORIES, index, **options)
    wanted = best_items(jnp.asarray(oracle(renormalise)), 64)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    np.testing.assert_array_equal(found.items, wanted.items)


@pytest.mark.parametrize("renormalise", [False, True])
def test_items_that_end_by_themselves(model, items, renormalise):
    alone = [a for a in items if not any(b[: len(a)] == a for b in items if b != a)]
    index, options = CatalogueIndex.build(alone), {"renormalise": renormalise}
    wanted = teacher_forced(model, alone)(renormalise)
    for chunk in (7, 1000):
        widths = chunk_widths(index, chunk, renormalise)
        every = {"chunk": chunk, "widths": widths, **options}
        scores = score_catalogue(*model, HISTORIES, jax.device_put(index), **every)
        np.testing.assert_allclose(scores, wanted, atol=1e-4)
    some = np.array([[3, 0, 9, -1], [5, 5, 2, 7]], np.int32)
    scores = score_candidates(*model, HISTORIES, jax.device_put(index), some, **options)
    chosen = np.take_along_axis(wanted, np.maximum(some, 0), axis=1)
    np.testing.assert_allclose(scores, np.where(some < 0, -np.inf, chosen), atol=1e-4)
    [found] = search(*model, HISTORIES, jax.device_put(index), num_beams=64, **options)
    ranked = best_items(jnp.asarray(wanted), 64)
    np.testing.assert_array_equal(found.items, ranked.items)


@pytest.mark.parametrize("renormalise", [False, True])
def test_a_catalogue_of_one_item(model, renormalise):
    index = jax.device_put(CatalogueIndex.build([[4, 2, EOS]]))
    options = {"renormalise": renormalise}
    scores = score_catalogue(*model, HISTORIES, index, chunk=5, **options)
    candidates = np.array([[0, -1], [-1, 0]], np.int32)
    assert scores.shape == (2, 1)
    np.testing.assert_allclose(
        score_candidates(*model, HISTORIES, index, candidates, **options),
        np.where(candidates == 0, scores, -np.inf),
        atol=1e-5,
    )
    if renormalise:
        np.testing.assert_array_equal(scores, 0)


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_chunk_widths_count_the_prefixes_of_neighbours(items, index, chunk):
    in_order = sorted(items)
    chunks = [in_order[i : i + chunk] for i in range(0, len(items), chunk)]
    counts = [
        [len({item[:depth] for item in part if len(item) >= depth}) for part in chunks]
        for depth in range(index.max_length)
    ]
    assert chunk_widths(index, chunk) == tuple(map(max, counts))


def test_chunks_begin_where_the_one_before_ends():
    """Two of the middle items would have two prefixes of one token."""
    index = CatalogueIndex.build([[2, 2, EOS], [2, 3, EOS], [3, 2, EOS], [3, 3, EOS]])
    assert chunk_widths(index, 2) == (1, 1, 2)


def test_best_items_are_ordered_and_not_excluded():
    scores = jnp.array([[0.1, 0.5, 0.3], [0.9, 0.2, 0.4]])
    ranked = best_items(scores, 4, excluded=jnp.array([[1, -1], [-1, -1]]))
    np.testing.assert_array_equal(ranked.items, [[2, 0, -1, -1], [0, 2, 1, -1]])
    assert np.isneginf(np.asarray(ranked.scores)[0, 2:]).all()
