"""Beam search over the catalogue, against brute force over random catalogues."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.engine.search.beam_search import beam_search
from recalign.engine.search.trie import EOS, CatalogueIndex

VOCAB, BATCH, MOST_ITEMS, LONGEST = 9, 2, 60, 5
TABLE = np.random.default_rng(0).normal(0, 2, (997, VOCAB)).astype(np.float32)


def toy_step(tokens, cache, position):
    """A decoder whose logits depend on the whole prefix, by a hash that its cache carries."""
    del position
    cache = (cache * 31 + tokens + 1) % len(TABLE)
    return jnp.asarray(TABLE)[cache], cache


def toy_cache():
    return jnp.arange(BATCH, dtype=jnp.int32)[:, None] * 17


def sequences_of(items, with_eos=True):
    return [(*item, EOS) if with_eos else item for item in items]


def brute_force(items, renormalise, with_eos=True):
    """float64[B, N]: each item's log-probability, by definition."""
    sequences = sequences_of(items, with_eos)
    scores = np.zeros((BATCH, len(items)))
    for example in range(BATCH):
        for i, sequence in enumerate(sequences):
            state, token = example * 17, 0
            for position, following in enumerate(sequence):
                state = (state * 31 + token + 1) % len(TABLE)
                logits = TABLE[state].astype(np.float64)
                prefix = sequence[:position]
                legal = {s[position] for s in sequences if s[:position] == prefix}
                support = sorted(legal) if renormalise else range(VOCAB)
                scores[example, i] += logits[following] - np.log(
                    sum(np.exp(logits[token]) for token in support)
                )
                token = following
    return scores


def padded(index: CatalogueIndex) -> CatalogueIndex:
    """The same catalogue in frames that fit every catalogue of these tests: compiled once."""
    bounds = tuple(min(MOST_ITEMS, (VOCAB - 2) ** depth) for depth in range(LONGEST + 1))
    most_nodes = sum(bounds)

    def pad(name, size):
        values = np.asarray(getattr(index, name))
        return np.pad(values, (0, size - len(values)), mode="edge")

    nodes = ("code", "first_rank", "end_rank", "terminal")
    return dataclasses.replace(
        index,
        **{name: pad(name, most_nodes) for name in nodes},
        first_child=pad("first_child", most_nodes + 1),
        item_of_rank=pad("item_of_rank", MOST_ITEMS),
        rank_of_item=pad("rank_of_item", MOST_ITEMS),
        alphabet=pad("alphabet", VOCAB - 1),
        level_sizes=bounds,
        continued_sizes=bounds if index.with_eos else (*bounds[:-1], 0),
        open_sizes=(*bounds[:-1], 0),
        branching=(VOCAB - 2,) * LONGEST + (0,),
    )


def build(items, with_eos=True) -> CatalogueIndex:
    return CatalogueIndex.build(sequences_of(items, with_eos), VOCAB)


@partial(jax.jit, static_argnames=("num_beams", "renormalise", "ends_compete"))
def search(index, excluded=None, **options):
    return beam_search(toy_step, toy_cache(), index, batch=BATCH, excluded=excluded, **options)


def plain_beam_search(items, num_beams, renormalise, ends_compete, example, with_eos=True):
    """The scores that the search must find, by lists and dictionaries."""
    sequences = sequences_of(items, with_eos)
    live, complete = [(0.0, (), example * 17, 0)], []
    while live:
        grown, ended = [], []
        for score, prefix, state, token in live:
            state = (state * 31 + token + 1) % len(TABLE)
            below = [s for s in sequences if s[: len(prefix)] == prefix]
            legal = sorted({s[len(prefix)] for s in below})
            logits = TABLE[state].astype(np.float64)
            support = np.exp(logits[legal] if renormalise else logits).sum()
            for following in legal:
                sequence = (*prefix, following)
                grown_score = score + logits[following] - np.log(support)
                alone = sum(s[: len(sequence)] == sequence for s in below) == 1
                if sequence in sequences or (renormalise and alone):
                    ended.append(grown_score)
                else:
                    grown.append((grown_score, sequence, state, following))
        best = sorted(ended + [score for score, *_ in grown], reverse=True)[:num_beams]
        complete += [score for score in ended if score >= best[-1] or not ends_compete]
        live = sorted(grown, reverse=True)[:num_beams]
    return sorted(complete, reverse=True)[:num_beams]


def assert_valid(found, oracle, excluded):
    """Any beam: items once, allowed, with their true scores, best first, empty slots last."""
    for items, scores, truth, banned in zip(*map(np.asarray, found), oracle, excluded, strict=True):
        filled = items >= 0
        assert np.all(np.diff(filled.astype(int)) <= 0)
        assert np.all(np.isneginf(scores[~filled]))
        kept = items[filled]
        assert len(set(kept)) == len(kept)
        assert not set(kept) & set(banned)
        np.testing.assert_allclose(scores[filled], truth[kept], atol=1e-4)
        assert np.all(np.diff(scores[filled]) <= 0)


def assert_exact(found, oracle, excluded):
    """The whole ranking: as `assert_valid`, and nothing missing."""
    assert_valid(found, oracle, excluded)
    beams = found.items.shape[1]
    for scores, truth, banned in zip(np.asarray(found.scores), oracle, excluded, strict=True):
        best = np.sort(np.delete(truth, sorted(set(banned) - {-1})))[::-1][:beams]
        np.testing.assert_allclose(scores[: len(best)], best, atol=1e-4)
        assert np.all(np.isneginf(scores[len(best) :]))


catalogues = st.lists(
    st.lists(st.integers(2, VOCAB - 1), min_size=1, max_size=LONGEST).map(tuple),
    min_size=1,
    max_size=MOST_ITEMS,
    unique=True,
)


@pytest.mark.parametrize("renormalise", [False, True])
@given(items=catalogues, data=st.data())
@settings(deadline=None, max_examples=60)
def test_as_many_beams_as_items_give_the_exact_ranking(items, data, renormalise):
    banned = st.lists(st.integers(-1, len(items) - 1), min_size=20, max_size=20)
    excluded = np.array([data.draw(banned) for _ in range(BATCH)], np.int32)
    found = search(
        padded(build(items)),
        excluded,
        num_beams=64,
        renormalise=renormalise,
    )
    assert_exact(found, brute_force(items, renormalise), excluded)


def without_beginnings(items):
    """The items that are not the beginning of another."""
    return [a for a in items if not any(b[: len(a)] == a for b in items if b != a)]


@pytest.mark.parametrize("num_beams", [64, 4])
@pytest.mark.parametrize("renormalise", [False, True])
@given(items=catalogues.map(without_beginnings), data=st.data())
@settings(deadline=None, max_examples=40)
def test_items_that_end_by_themselves(items, data, num_beams, renormalise):
    banned = st.lists(st.integers(-1, len(items) - 1), min_size=20, max_size=20)
    excluded = np.array([data.draw(banned) for _ in range(BATCH)])
    index = padded(build(items, with_eos=False))
    found = search(index, excluded, num_beams=num_beams, renormalise=renormalise)
    oracle = brute_force(items, renormalise, with_eos=False)
    (assert_exact if num_beams == 64 else assert_valid)(found, oracle, excluded)
    found = search(index, np.full((BATCH, 20), -1), num_beams=num_beams, renormalise=renormalise)
    for example, scores in enumerate(np.asarray(found.scores)):
        wanted = plain_beam_search(items, num_beams, renormalise, True, example, with_eos=False)
        np.testing.assert_allclose(scores[: len(wanted)], wanted, atol=1e-4)
        assert np.all(np.isneginf(scores[len(wanted) :]))


@pytest.mark.parametrize("length", [1, 3])
def test_no_step_is_taken_for_the_end_of_items_that_end_by_themselves(length):
    """One more would be a wrong one: it may not run."""
    items = list(itertools.product(range(2, 6), repeat=length))

    def step(tokens, cache, position):
        logits, cache = toy_step(tokens, cache, position)
        return jnp.where(position < length, logits, jnp.nan), cache

    index = jax.device_put(build(items, with_eos=False))
    found = jax.jit(lambda: beam_search(step, toy_cache(), index, num_beams=3, batch=BATCH))()
    assert_valid(found, brute_force(items, False, with_eos=False), np.full((BATCH, 1), -1))
    assert (found.items >= 0).all()


@pytest.mark.parametrize("num_beams", [1, 3, 10, 32])
@pytest.mark.parametrize("renormalise", [False, True])
@given(items=catalogues, data=st.data())
@settings(deadline=None, max_examples=40)
def test_few_beams_give_true_items_and_scores(items, data, num_beams, renormalise):
    banned = st.lists(st.integers(-1, len(items) - 1), min_size=20, max_size=20)
    excluded = np.array([data.draw(banned) for _ in range(BATCH)], np.int32)
    found = search(padded(build(items)), excluded, num_beams=num_beams, renormalise=renormalise)
    oracle = brute_force(items, renormalise)
    assert_valid(found, oracle, excluded)
    for found_items, banned_items in zip(np.asarray(found.items), excluded, strict=True):
        if set(range(len(items))) - set(banned_items.tolist()):
            assert found_items[0] >= 0  # what may come out is never starved by what may not


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("ends_compete", [False, True])
@given(items=catalogues)
@settings(deadline=None, max_examples=30)
def test_few_beams_find_what_a_plain_beam_search_finds(items, num_beams, renormalise, ends_compete):
    nobody = np.full((BATCH, 20), -1, np.int32)
    options = {"renormalise": renormalise, "ends_compete": ends_compete}
    found = search(padded(build(items)), nobody, num_beams=num_beams, **options)
    for example in range(BATCH):
        wanted = plain_beam_search(items, num_beams, **options, example=example)
        scores = np.asarray(found.scores)[example]
        np.testing.assert_allclose(scores[: len(wanted)], wanted, atol=1e-4)
        assert np.all(np.isneginf(scores[len(wanted) :]))


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_tight_frames_and_no_exclusions(seed, renormalise):
    rng = np.random.default_rng(seed)
    size = [1, 12, 60][seed]
    items = list({tuple(rng.integers(2, VOCAB, rng.integers(1, 5)).tolist()) for _ in range(size)})
    oracle, nobody = brute_force(items, renormalise), np.full((BATCH, 1), -1)
    for num_beams in (64, 4):
        found = search(
            build(items),
            num_beams=num_beams,
            renormalise=renormalise,
        )
        check = assert_exact if num_beams == 64 else assert_valid
        check(found, oracle, nobody)


def test_renormalised_scores_are_a_distribution():
    items = [(2,), (2, 3), (2, 3, 4), (5, 5, 5), (7,), (7, 2, 2), (7, 2, 3)]
    found = search(build(items), num_beams=8, renormalise=True)
    np.testing.assert_allclose(np.exp(found.scores).sum(axis=1), 1, atol=1e-5)


def test_logits_of_the_alphabet_are_enough_when_renormalised():
    items = [(2,), (2, 3), (2, 3, 4), (5, 5, 5), (7,), (7, 2, 2), (7, 2, 3)]
    index = jax.device_put(build(items))

    def step(tokens, cache, position):
        logits, cache = toy_step(tokens, cache, position)
        return logits[..., index.alphabet], cache

    wanted = search(index, num_beams=4, renormalise=True)
    options = {"num_beams": 4, "batch": BATCH, "renormalise": True}
    found = jax.jit(lambda: beam_search(step, toy_cache(), index, **options))()
    np.testing.assert_array_equal(found.items, wanted.items)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
    with pytest.raises(ValueError, match="alphabet alone"):
        beam_search(step, toy_cache(), index, **options | {"renormalise": False})


def test_exclusions_take_up_no_beam():
    items = [(2, d) for d in range(2, 9)] + [(3, d) for d in range(2, 9)]
    index, oracle = build(items), brute_force([*items], False)
    for example in range(BATCH):
        favourite = items[int(np.argmax(oracle[example]))][0]
        banned = [i for i, item in enumerate(items) if item[0] == favourite]
        excluded = np.full((BATCH, 7), -1, np.int32)
        excluded[example] = banned
        found = search(index, excluded, num_beams=1)
        assert np.asarray(found.items)[example, 0] not in (-1, *banned)


def test_the_loop_stops_when_no_hypothesis_can_improve():
    """One step would be a wrong one: it may not run."""
    items = [(2,), (3,), (4, *[5] * 30), (6, *[5] * 30)]
    table = np.full((VOCAB,), -30.0, np.float32)
    table[[2, 3, EOS]] = 0.0

    def step(tokens, cache, position):
        logits = jnp.where(position < 4, jnp.asarray(table), jnp.nan)
        return jnp.broadcast_to(logits, (*tokens.shape, VOCAB)), cache

    index = jax.device_put(build(items))
    cache = jnp.zeros((BATCH, 1))
    found = jax.jit(lambda: beam_search(step, cache, index, num_beams=2, batch=BATCH))()
    assert sorted(np.asarray(found.items)[0]) == [0, 1]
    assert np.isfinite(found.scores).all()
