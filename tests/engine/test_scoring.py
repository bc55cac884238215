"""Exact scores, against the network's teacher-forced logits taken one item at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recalign.engine.catalogue import EOS, PAD, CatalogueIndex
from recalign.engine.retrieval import retrieve, score_all_items, score_items
from recalign.engine.scoring import best_items, chunk_widths

HISTORIES = np.array([[7, 9, 30, 1, 0, 0], [5, 5, 12, 39, 8, 1]], np.int32)
STATIC = ("chunk", "widths", "renormalise")

score_catalogue = jax.jit(score_all_items, static_argnums=0, static_argnames=STATIC)
score_candidates = jax.jit(score_items, static_argnums=0, static_argnames=STATIC)
search = jax.jit(retrieve, static_argnums=0, static_argnames=("num_beams", "renormalise"))


@pytest.fixture(scope="module", params=[1, 60])
def items(request):
    """Catalogues of one item, and of about 60: some are prefixes of others, and one is long."""
    if request.param == 1:
        return [(4, 2)]
    rng = np.random.default_rng(0)
    draw = (tuple(rng.integers(2, 6, rng.integers(1, 6)).tolist()) for _ in range(request.param))
    return [(5, 3, *[2] * 18), *sorted(set(draw), key=hash)]


@pytest.fixture(scope="module")
def index(items):
    return jax.device_put(CatalogueIndex.build([[*item, EOS] for item in items]))


@pytest.fixture(scope="module")
def oracle(tiny_model, items):
    """A function of `renormalise`: float64[B, N], from one teacher-forced pass a history."""
    module, params = tiny_model
    sequences = [(*item, EOS) for item in items]
    targets = np.full((len(items), max(map(len, sequences))), PAD, np.int32)
    for row, sequence in zip(targets, sequences, strict=True):
        row[: len(sequence)] = sequence
    inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    logits = [
        np.asarray(
            module.apply(
                {"params": params},
                jnp.broadcast_to(history, (len(items), len(history))),
                inputs,
                targets,
                enable_dropout=False,
            ),
            np.float64,
        )
        for history in HISTORIES
    ]

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


@pytest.mark.parametrize("chunk", [7, 1000])
@pytest.mark.parametrize("renormalise", [False, True])
def test_every_item_has_its_teacher_forced_score(tiny_model, index, oracle, renormalise, chunk):
    module, params = tiny_model
    options = {"chunk": chunk, "renormalise": renormalise}
    if chunk < index.num_items:
        options["widths"] = chunk_widths(index, chunk, renormalise)
    scores = score_catalogue(module, {"params": params}, HISTORIES, index, **options)
    np.testing.assert_allclose(scores, oracle(renormalise), atol=1e-4)
    if renormalise:
        np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("renormalise"), [(False, 8), (True, 2)])
def test_candidates_of_each_history(tiny_model, index, oracle, renormalise):
    module, params = tiny_model
    rng = np.random.default_rng(0)
    candidates = rng.integers(-1, index.num_items, (len(HISTORIES), 9)).astype(np.int32)
    candidates[:, 3] = candidates[:, 5]  # the same item twice
    options = {"renormalise": renormalise}
    scores = score_candidates(module, {"params": params}, HISTORIES, index, candidates, **options)
    wanted = np.take_along_axis(oracle(renormalise), np.maximum(candidates, 0), axis=1)
    np.testing.assert_allclose(scores, np.where(candidates < 0, -np.inf, wanted), atol=1e-4)


@pytest.mark.parametrize("renormalise", [False, True])
def test_beams_for_all_items_rank_as_exact_scores_do(tiny_model, index, oracle, renormalise):
    module, params = tiny_model
    options = {"num_beams": 64, "renormalise": renormalise}
    found = search(module, {"params": params}, HISTORIES, index, **options)
    wanted = best_items(jnp.asarray(oracle(renormalise)), 64)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    np.testing.assert_array_equal(found.items, wanted.items)


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_chunk_widths_count_the_prefixes_of_neighbours(items, index, chunk):
    in_order = sorted(items)
    chunks = [in_order[i : i + chunk] for i in range(0, len(items), chunk)]
    counts = [
        [len({item[:depth] for item in part if len(item) >= depth}) for part in chunks]
        for depth in range(index.max_length)
    ]
    assert chunk_widths(index, chunk) == tuple(map(max, counts))


def test_best_items_are_ordered_and_not_excluded():
    scores = jnp.array([[0.1, 0.5, 0.3], [0.9, 0.2, 0.4]])
    ranked = best_items(scores, 4, excluded=jnp.array([[1, -1], [-1, -1]]))
    np.testing.assert_array_equal(ranked.items, [[2, 0, -1, -1], [0, 2, 1, -1]])
    assert np.isneginf(np.asarray(ranked.scores)[0, 2:]).all()
