"""Scores of given items and greedy answers, against the network forced along every sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from recalign.engine.partitioning import Partitioner
from recalign.engine.search.scorer import Scorer
from recalign.engine.search.trie import EOS
from recalign.engine.search.writer import Writer

ITEMS = [[5, 6, 1], [5, 1], [7, 1], [5, 6, 7, 1], [8, 9, 1]]


@pytest.fixture(scope="module")
def questions():
    rng = np.random.default_rng(1)
    return [rng.integers(2, 40, length).astype(np.int32) for length in (3, 11, 6, 2, 9)]


@pytest.fixture(scope="module")
def model(tiny_model):
    """The network and its parameters; EOS made likelier, so that answers differ in length."""
    module, params = tiny_model
    flat = traverse_util.flatten_dict(params)
    path = ("decoder", "logits_dense", "kernel")
    flat[path] = flat[path].at[:, EOS].multiply(3.0)
    return module, traverse_util.unflatten_dict(flat)


@pytest.fixture(scope="module")
def forced(model):
    """Gives the log-probabilities float[L, V] of each token of an answer of L to a question."""
    module, params = model

    @jax.jit
    def padded(question, answer):
        shifted = jnp.concatenate([jnp.zeros(1, jnp.int32), answer[:-1]])
        arrays = (x[None] for x in (question, shifted, answer))
        logits = module.apply({"params": params}, *arrays, enable_dropout=False)
        return jax.nn.log_softmax(logits[0])

    def log_probs(question, answer):
        spare = 12 - len(question), 6 - len(answer)
        arrays = (np.pad(x, (0, n)) for x, n in zip((question, answer), spare, strict=True))
        return np.asarray(padded(*arrays))[: len(answer)]

    return log_probs


@pytest.mark.parametrize("batch_size", [2, 8])
def test_scores_are_the_log_probabilities_of_whole_sequences(model, questions, forced, batch_size):
    module, params = model
    scorer = Scorer(module, Partitioner(), [np.array(i) for i in ITEMS], batch_size, 16)
    asked = np.array([[0, 3, 1], [4, 2, 0], [1, 1, 3], [2, 3, 4], [0, 1, 2]], np.int32)
    found = scorer.score(params, questions, asked)
    for question, items, scores in zip(questions, asked, found, strict=True):
        for item, score in zip(items, scores, strict=True):
            answer = np.array(ITEMS[item])
            steps = forced(question, answer)[np.arange(len(answer)), answer]
            assert score == pytest.approx(float(steps.sum()), abs=1e-4)


def test_renormalised_scores_of_all_items_are_a_distribution(model, questions):
    module, params = model
    scorer = Scorer(module, Partitioner(), [np.array(i) for i in ITEMS], renormalise=True)
    every = np.tile(np.arange(len(ITEMS), dtype=np.int32), (len(questions), 1))
    scores = scorer.score(params, questions, every)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-5)
    assert np.exp(scores).max() < 0.999


@pytest.mark.parametrize("batch_size", [2, 8])
def test_an_answer_is_the_likeliest_token_each_time(model, questions, forced, batch_size):
    module, params = model
    found = Writer(module, Partitioner(), batch_size, 16).write(params, questions, length=6)
    lengths = [list(row).index(EOS) + 1 if EOS in row else 6 for row in found]
    for question, row, length in zip(questions, found, lengths, strict=True):
        assert not row[length:].any()
        assert forced(question, row[:length]).argmax(axis=1).tolist() == row[:length].tolist()
    assert len(set(lengths)) > 1
