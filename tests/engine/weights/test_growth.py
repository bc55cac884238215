"""Rows for new tokens: what was known stays, and nothing is guessed."""

import itertools

import jax
import numpy as np
import pytest
import scipy.sparse
from flax import traverse_util

from recalign.engine.network.config import T5Config, parameter_shapes
from recalign.engine.network.transformer import Transformer
from recalign.engine.partitioning import Partitioner
from recalign.engine.search.catalogue_model import CatalogueModel
from recalign.engine.search.inference import Inference
from recalign.engine.weights.conversion import convert, load_params, open_weights
from recalign.engine.weights.growth import HEAD, TABLE, NewTokens, rows_for
from recalign.errors import UserError
from tests.engine.weights.saving import save_params

# 30 pieces and 100 sentinels, padded or not; then 7 new tokens, of which the last two are random.
FIRST, NEW, PADDED, ROWS = 30, 7, 256, 384
STARTS = [[3, 4], [3, 3, 5], [29], [4], [10, 11, 12], [], []]


def network(rows, tied):
    return T5Config(
        rows, emb_dim=64, num_heads=2, head_dim=4, mlp_dim=12, num_encoder_layers=1,
        num_decoder_layers=1, logits_via_embedding=tied,
    )  # fmt: skip


@pytest.fixture
def new():
    means = np.zeros((NEW, FIRST))
    for row, pieces in zip(means, STARTS, strict=True):
        for piece in pieces:
            row[piece] += 1 / len(pieces)
    return NewTokens(FIRST, scipy.sparse.csr_matrix(means), seed=3)


def params(rows, tied, dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(network(rows, tied)).items()
    flat = {k: rng.normal(1, 0.2, shape).astype(dtype) for k, shape in shapes}
    return traverse_util.unflatten_dict(flat, sep="/")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("to", "before"), [("t5x", 130), ("hf", PADDED), ("orbax", PADDED)])
def test_old_rows_stay_bit_by_bit_and_new_ones_are_means(tmp_path, new, to, before, tied):
    save_params(params(before, tied), tmp_path / "c", to)
    old = {name: tensor.read() for name, tensor in open_weights(tmp_path / "c").tensors.items()}
    fields, grown = load_params(tmp_path / "c", network(ROWS, tied), new)
    assert fields["vocab_size"] == ROWS
    grown = traverse_util.flatten_dict(grown, sep="/")
    assert grown.keys() == old.keys()
    drawn = []
    for name in old:
        was, now = old[name], grown[name]
        if name not in (TABLE, HEAD):
            np.testing.assert_array_equal(now, was)
            continue
        was, now = (was.T, now.T) if name == HEAD else (was, now)
        assert now.shape[0] == ROWS
        np.testing.assert_array_equal(now[:FIRST], was[:FIRST])
        sentinels = now[FIRST + NEW : FIRST + NEW + 100]
        np.testing.assert_array_equal(sentinels, was[FIRST : FIRST + 100])
        padding = now[FIRST + NEW + 100 :]
        np.testing.assert_array_equal(padding, np.repeat(was[:1], len(padding), axis=0))
        for token, pieces in enumerate(STARTS):
            if pieces:
                mean = was[pieces].mean(axis=0)
                np.testing.assert_allclose(now[FIRST + token], mean, rtol=1e-6)
        random = (now[FIRST + 5 : FIRST + 7] - was[:FIRST].mean(axis=0)) / was[:FIRST].std(axis=0)
        assert abs(random.mean()) < 0.4
        assert 0.7 < random.std() < 1.3
        drawn.append(random)
    assert len(drawn) == 2 - tied
    assert all(abs(a - b).max() > 0.1 for a, b in itertools.pairwise(drawn))


@pytest.mark.parametrize("tied", [False, True])
def test_the_logits_of_what_was_known_are_unchanged(tmp_path, new, tied):
    save_params(params(PADDED, tied), tmp_path / "c", "hf")
    rng = np.random.default_rng(1)
    inputs, targets = rng.integers(1, FIRST + 100, (2, 2, 6))

    def logits(rows, tokens, new_tokens):
        _, found = load_params(tmp_path / "c", network(rows, tied), new_tokens)
        module = Transformer(network(rows, tied))
        return np.asarray(
            module.apply({"params": found}, *tokens, np.ones((2, 6)), enable_dropout=False)
        )

    before = logits(PADDED, (inputs, targets), None)
    moved = [np.where(t >= FIRST, t + NEW, t) for t in (inputs, targets)]  # sentinels
    after = logits(ROWS, moved, new)
    kept = np.r_[:FIRST, FIRST + NEW : FIRST + NEW + 100]
    np.testing.assert_allclose(after[..., kept], before[..., : FIRST + 100], rtol=1e-6)


def test_a_search_over_new_tokens_finds_what_scoring_them_all_does(tmp_path, new):
    """Items of two new tokens, and of one more where they collide, against teacher forcing."""
    save_params(params(PADDED, False), tmp_path / "c", "hf")
    module = Transformer(network(ROWS, False))
    _, found = load_params(tmp_path / "c", module.config, new)
    pairs = itertools.product(range(FIRST, FIRST + 3), range(FIRST + 3, FIRST + 6))
    items = [[*pair, 1] for pair in pairs] + [[FIRST, FIRST + 6, n, 1] for n in (FIRST + 5, 3)]
    questions = [np.array(row, np.int32) for row in ([7, FIRST + 1, 9, 1], [3, 1])]
    options = Inference(num_beams=len(items), batch_size=2, length_multiple=4)
    model = CatalogueModel(module, Partitioner(), items, options)
    ranked = model.best(found, questions, len(items))
    forced = jax.jit(lambda *tokens: module.apply({"params": found}, *tokens, enable_dropout=False))
    targets = np.array([[*item, *[0] * (4 - len(item))] for item in items])
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    for question, order, scores in zip(questions, *ranked, strict=True):
        asked = np.tile(question, (len(items), 1))
        odds = jax.nn.log_softmax(forced(asked, shifted, targets))
        taken = np.take_along_axis(odds, targets[..., None], axis=2)[..., 0]
        expected = (taken * (targets > 0)).sum(axis=1)
        np.testing.assert_array_equal(order, np.argsort(-expected, kind="stable"))
        np.testing.assert_allclose(scores, np.sort(expected)[::-1], rtol=1e-5)


def test_what_is_grown_already_stays(tmp_path, new):
    save_params(params(ROWS, False), tmp_path / "c", "t5x")
    _, found = load_params(tmp_path / "c", network(ROWS, False), new)
    _, plain = load_params(tmp_path / "c", network(ROWS, False))
    found, plain = (traverse_util.flatten_dict(p, sep="/") for p in (found, plain))
    np.testing.assert_array_equal(found[TABLE], plain[TABLE])


@pytest.mark.parametrize("to", ["t5x", "hf", "orbax"])
def test_a_grown_checkpoint_is_written(tmp_path, new, to):
    save_params(params(PADDED, False), tmp_path / "c", "t5x")
    convert(tmp_path / "c", tmp_path / "grown", to, vocab_size=ROWS, new=new)
    _, written = load_params(tmp_path / "grown", network(ROWS, False), new)
    _, grown = load_params(tmp_path / "c", network(ROWS, False), new)
    for name in ("token_embedder", "decoder"):
        one, other = (traverse_util.flatten_dict(p[name], sep="/") for p in (written, grown))
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (129, ROWS, "has 129 vocabulary rows, but the vocabulary had 30 pieces and 100 sentinels"),
        (257, ROWS, "has 257 vocabulary rows.* it is another's"),
        (130, 256, "VOCAB_SIZE is 256, as it may have been before.* set it to 384"),
        (256, 256, "VOCAB_SIZE is 256, as it may have been before.* set it to 384"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, new, before, after, message):
    save_params(params(before, False), tmp_path / "c", "t5x")
    with pytest.raises(UserError, match=message):
        load_params(tmp_path / "c", network(after, False), new)


def test_a_network_without_room_is_refused(tmp_path):
    new = NewTokens(FIRST, scipy.sparse.csr_matrix((400, FIRST)))
    save_params(params(PADDED, False), tmp_path / "c", "t5x")
    with pytest.raises(UserError, match="530 token ids, 400 new ones included, but the model only"):
        load_params(tmp_path / "c", network(ROWS, False), new)


def test_rows_that_a_network_needs():
    assert rows_for(32_000, 0) == 32_128
    assert rows_for(32_000, 12_101) == 44_288
    assert rows_for(32_000, 3) == 32_256  # not 32,128, which is what it had
    assert rows_for(600, 12_101) == 12_928
