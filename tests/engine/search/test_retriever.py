"""Rankings of a network that is a table of bigrams, so that every score is known by hand."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from recalign.engine.partitioning import Partitioner
from recalign.engine.search.retriever import Retriever
from recalign.engine.search.trie import EOS
from recalign.evaluation import metrics

# Two tokens an item, the second one always from `LAST`. Ten broad first tokens lead to ten items
# each, and are a little likelier than two narrow ones, which lead to one item each.
BROAD, NARROW = range(2, 12), range(12, 14)
LAST = range(14, 24)
ITEMS = [(a, b) for a in BROAD for b in LAST] + [(a, LAST[0]) for a in NARROW]
FIRST_ODDS = {**{a: 6.0 + 0.1 * a for a in BROAD}, **{a: 5.0 + 0.01 * a for a in NARROW}}
LAST_ODDS = {b: 1.0 + 0.01 * b for b in LAST}
QUESTIONS = [np.array([7, 9, EOS], np.int32), np.array([3, EOS], np.int32)]
OFFSETS, EVENTS = np.array([0, 1, 2]), np.array([100, 55], np.int32)


@pytest.fixture(scope="module")
def bigrams(tiny_model):
    """The tiny network and parameters by which P(next token) depends on the last token alone.

    The blocks of the decoder add nothing, so that the embedding of the last token, on one axis of
    its own for each kind of token, is what the logits are made from.
    """
    module, params = tiny_model
    flat = {name: np.zeros_like(p) for name, p in traverse_util.flatten_dict(params).items()}
    for name, values in flat.items():
        if name[-1] == "scale":
            values[:] = 1
    embedding = flat["token_embedder", "embedding"]
    axis = {0: 0, **dict.fromkeys([*BROAD, *NARROW], 1), **dict.fromkeys(LAST, 2)}
    for token, place in axis.items():
        embedding[token, place] = 1
    kernel = flat["decoder", "logits_dense", "kernel"]  # [emb_dim, vocab]
    kernel[:3] = -20
    for place, odds in enumerate((FIRST_ODDS, LAST_ODDS, {EOS: 1.0})):
        kernel[place, list(odds)] = np.log(list(odds.values()))
    kernel[:3] /= np.sqrt(embedding.shape[1])  # a normalised one-hot vector has that length
    return module, traverse_util.unflatten_dict(flat)


def scores():
    """float64[N], each item's log-probability; what is not legal is too unlikely to matter."""
    first, last = sum(FIRST_ODDS.values()), sum(LAST_ODDS.values())
    return np.log([FIRST_ODDS[a] / first * LAST_ODDS[b] / last for a, b in ITEMS])


def rank(bigrams, **options):
    module, params = bigrams
    catalogue = [[*item, EOS] for item in ITEMS]
    retriever = Retriever(module, Partitioner(), catalogue, length_multiple=8, **options)
    return retriever.rank(jax.device_put(params), QUESTIONS, OFFSETS, EVENTS)


def test_exact_rankings_are_known_by_hand(bigrams):
    every, unseen = rank(bigrams, num_beams=20, exact=True, chunk=30)
    best = np.argsort(-scores(), kind="stable")
    for row, seen in enumerate(EVENTS):
        np.testing.assert_array_equal(every.items[row], best[:20])
        np.testing.assert_allclose(every.scores[row], scores()[best[:20]], atol=1e-4)
        np.testing.assert_array_equal(unseen.items[row], best[best != seen][:20])


def test_a_beam_loses_what_its_recall_tells(bigrams):
    """Ten beams keep the broad first tokens; renormalised, the narrow items are the best two."""
    options = {"num_beams": 10, "renormalise": True}
    exact, beam = rank(bigrams, exact=True, **options), rank(bigrams, **options)
    narrow = [len(ITEMS) - 1, len(ITEMS) - 2]
    assert exact[0].items[:, :2].tolist() == [narrow, narrow]
    total = sum(FIRST_ODDS.values())
    np.testing.assert_allclose(exact[0].scores[:, 0], np.log(FIRST_ODDS[13] / total), atol=1e-4)
    assert not np.isin(beam[0].items, narrow).any()
    found = [metrics.beam_recall(b.items, e.items) for b, e in zip(beam, exact, strict=True)]
    # Two of ten are lost; but the first history has seen one of the two (item 100).
    assert [row["full/beam_recall@10"] for row in found] == pytest.approx([0.8, (0.9 + 0.8) / 2])


@pytest.mark.parametrize("exact", [False, True])
def test_renormalised_scores_of_all_items_are_a_distribution(bigrams, exact):
    every, unseen = rank(bigrams, num_beams=len(ITEMS), renormalise=True, exact=exact)
    np.testing.assert_allclose(np.exp(every.scores).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(unseen.items[:, -1], -1)
    plain, _ = rank(bigrams, num_beams=len(ITEMS), exact=exact)
    assert not np.allclose(plain.scores[:, 0], every.scores[:, 0], atol=0.1)
