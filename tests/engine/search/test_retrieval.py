"""The network's search and scores against those of Hugging Face's `generate`."""

import jax
import numpy as np
import pytest

from recalign.engine.network.transformer import T5Config, Transformer
from recalign.engine.search.retrieval import retrieve, score_all_items
from recalign.engine.search.trie import PAD, CatalogueIndex
from recalign.engine.weights.conversion import load_params


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "golden/hf"


@pytest.fixture(scope="module")
def golden(folder):
    return dict(np.load(folder / "golden.npz"))


@pytest.fixture(scope="module")
def model(folder):
    config, params = load_params(str(folder))
    return Transformer(T5Config(**config)), {"params": params}


@pytest.fixture(scope="module")
def index(golden):
    return jax.device_put(CatalogueIndex.build(golden["catalog"]))


@pytest.fixture(scope="module")
def histories(golden):
    return np.where(golden["attention_mask"], golden["input_ids"], PAD).astype(np.int32)


search = jax.jit(retrieve, static_argnums=0, static_argnames=("num_beams", "renormalise"))


def items_of(sequences, catalogue):
    """int[B, K], positions in the catalogue of sequences int[B, K, L] padded with anything."""
    place = {tuple(row[: list(row).index(1)]): i for i, row in enumerate(catalogue.tolist())}
    return [[place[tuple(row[: list(row).index(1)])] for row in rows] for rows in sequences]


@pytest.mark.parametrize("num_beams", [5, 20, 40])
def test_beam_search_gives_the_golden_items_and_scores(model, index, histories, golden, num_beams):
    [found] = search(*model, histories, index, num_beams=num_beams)
    wanted = items_of(golden[f"beam{num_beams}/sequences"].tolist(), golden["catalog"])
    np.testing.assert_allclose(found.scores, golden[f"beam{num_beams}/scores"], atol=1e-4)
    np.testing.assert_array_equal(found.items, wanted)


def test_exact_scores_are_the_golden_ones(model, index, histories, golden):
    score = jax.jit(score_all_items, static_argnums=0, static_argnames="chunk")
    scores = score(*model, histories, index, chunk=9)
    np.testing.assert_allclose(scores, golden["exact_item_log_probs"], atol=1e-4)


def test_unseen_items_rank_as_among_all(model, index, histories, golden):
    seen = golden["exact_item_log_probs"].argsort()[:, -3:].astype(np.int32)
    both = search(*model, histories, index, exclusions=(None, seen), num_beams=40)
    of_all, of_unseen = both
    for every, unseen, gone in zip(
        *map(np.asarray, (of_all.items, of_unseen.items, seen)), strict=True
    ):
        np.testing.assert_array_equal(unseen, [*every[~np.isin(every, gone)], -1, -1, -1])
