"""Answers that begin with given tokens, of another number for each example.

Against the network's teacher-forced logits, taken one item at a time, and against Hugging Face.
"""

from functools import partial
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from recalign.engine.search.retrieval import (
    rank_exactly,
    retrieve,
    score_all_items,
    score_items,
)
from recalign.engine.search.trie import EOS, PAD, CatalogueIndex
from tests.engine.search.networks import make_network

HISTORIES = np.array(
    [[7, 9, 30, 1, 0, 0], [5, 5, 12, 39, 8, 1], [4, 1, 0, 0, 0, 0], [9, 9, 8, 1, 0, 0]], np.int32
)
# Nothing, one token, as many as there is room for, and two that an item has too.
GIVEN = [[], [31], [12, 6, 38, 5], [2, 3]]
# Many are prefixes of others.
ITEMS = [(2,), (2, 3), (2, 3, 4), (2, 3, 5), (3,), (3, 3), (3, 3, 3), (4, 2, 6), (5, 2), (5, 2, 2)]
SEQUENCES = [(*item, EOS) for item in ITEMS]
LONGEST, WIDTH = max(map(len, SEQUENCES)), 4
SEEN = np.tile(np.array([[0, 7]], np.int32), (len(HISTORIES), 1))


def rows(sequences, width):
    return np.array([[*row, *[PAD] * (width - len(row))] for row in sequences], np.int32)


@pytest.fixture(scope="module", params=[False, True], ids=["", "copy_gate"])
def model(request):
    return make_network(num_decoder_layers=2, copy_gate=request.param)


@pytest.fixture(scope="module")
def index():
    return jax.device_put(CatalogueIndex.build(SEQUENCES))


@pytest.fixture(scope="module")
def teacher_forced(model):
    """A function of histories int32[n, S] and targets int32[n, L]: float64[n, L, V]."""
    module, variables = model
    apply = jax.jit(partial(module.apply, enable_dropout=False))

    def logits(histories, targets):
        inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
        return np.asarray(apply(variables, histories, inputs, targets), np.float64)

    return logits


@pytest.fixture(scope="module")
def oracle(teacher_forced):
    """A function of what is given: what each item adds to the log-probability, float64[B, N]."""

    def scores(given, renormalise=False):
        found = np.zeros((len(HISTORIES), len(ITEMS)))
        for example, begin in enumerate(given):
            answers = rows([[*begin, *sequence] for sequence in SEQUENCES], WIDTH + LONGEST)
            logits = teacher_forced(np.tile(HISTORIES[example], (len(ITEMS), 1)), answers)
            for item, sequence in enumerate(SEQUENCES):
                for place, token in enumerate(sequence):
                    legal = {s[place] for s in SEQUENCES if s[:place] == sequence[:place]}
                    support = sorted(legal) if renormalise else slice(None)
                    row = logits[item, len(begin) + place]
                    found[example, item] += row[token] - np.log(np.exp(row[support]).sum())
        return found

    return scores


@pytest.fixture(scope="module")
def score(model):
    module, variables = model
    return partial(jax.jit(partial(score_all_items, module, chunk=4)), variables)


tokens = st.lists(st.integers(2, 39), max_size=WIDTH)


@hypothesis.given(st.lists(tokens, min_size=len(HISTORIES), max_size=len(HISTORIES)))
@hypothesis.settings(max_examples=25)
def test_scores_are_those_of_whole_answers(score, index, oracle, given):
    found = score(HISTORIES, index, given=rows(given, WIDTH))
    np.testing.assert_allclose(found, oracle(given), atol=1e-4)


@pytest.mark.parametrize(("exact", "renormalise"), [(False, False), (False, True), (True, False)])
def test_both_rankings_are_those_of_whole_answers(model, index, oracle, exact, renormalise):
    module, variables = model
    rank = rank_exactly if exact else retrieve
    options = {"num_beams": len(ITEMS), "renormalise": renormalise}
    options |= {"chunk": 4} if exact else {}
    both = jax.jit(partial(rank, module, **options))(
        variables, HISTORIES, index, rows(GIVEN, WIDTH), exclusions=(None, SEEN)
    )
    scores = oracle(GIVEN, renormalise)
    unseen = scores.copy()
    np.put_along_axis(unseen, SEEN, -np.inf, axis=1)
    for found, wanted in zip(both, (scores, unseen), strict=True):
        order = np.argsort(-wanted, axis=1, kind="stable")
        wanted = np.take_along_axis(wanted, order, axis=1)
        np.testing.assert_array_equal(found.items, np.where(np.isfinite(wanted), order, -1))
        np.testing.assert_allclose(found.scores, wanted, atol=1e-4)


def test_candidates_have_the_scores_of_whole_answers(model, index, oracle):
    module, variables = model
    some = np.array([[3, 0, 9], [1, 1, -1], [8, 2, 5], [0, 6, 4]], np.int32)
    score = jax.jit(partial(score_items, module))
    found = score(variables, HISTORIES, index, some, rows(GIVEN, WIDTH))
    wanted = np.take_along_axis(oracle(GIVEN), np.maximum(some, 0), axis=1)
    np.testing.assert_allclose(found, np.where(some < 0, -np.inf, wanted), atol=1e-4)


def test_padding_of_what_is_given_changes_nothing(score, index):
    tight = score(HISTORIES, index, given=rows(GIVEN, WIDTH))
    padded = score(HISTORIES, index, given=rows(GIVEN, WIDTH + 3))
    np.testing.assert_allclose(tight, padded, atol=1e-5)
    nothing = score(HISTORIES, index, given=rows([[]] * len(HISTORIES), WIDTH))
    np.testing.assert_allclose(nothing, score(HISTORIES, index), atol=1e-5)


@pytest.fixture(scope="module")
def hugging_face():
    """What `generate` found, by name; see `golden/make_hf_prefix.py`."""
    return dict(np.load(Path(__file__).parents[1] / "golden/hf_prefix.npz"))


@pytest.mark.parametrize("num_beams", [5, 60])
def test_hugging_face_generates_the_same(case, case_model, hugging_face, num_beams):
    module, params = case_model
    index = jax.device_put(CatalogueIndex.build(hugging_face["items"]))
    histories = case.batch(0)["encoder_input_tokens"]
    [found] = jax.jit(partial(retrieve, module, num_beams=num_beams))(
        {"params": params}, histories, index, hugging_face["given"]
    )
    np.testing.assert_allclose(found.scores, hugging_face[f"beam{num_beams}/scores"], atol=1e-3)
    np.testing.assert_array_equal(found.items, hugging_face[f"beam{num_beams}/items"])
