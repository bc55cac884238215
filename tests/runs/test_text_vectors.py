"""Vectors of texts by a T5's encoder, and ids that are made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from recalign import domains
from recalign.domains import codes, vectors
from recalign.engine.network.transformer import T5Config, Transformer
from recalign.engine.weights.conversion import convert, load_params
from recalign.errors import UserError
from recalign.runs.text_vectors import LONGEST, encode_texts
from tests.commands import run
from tests.engine.weights.test_hf import folder

TEXTS = ["Red car", "", "a longer one, of several words", "word " * 3 * LONGEST]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The data folder of a toy shop, which has a vocabulary of its own."""
    path = tmp_path_factory.mktemp("data")
    run("prepare", "toyshop", "--users", 60, "--items", 50, "--data_dir", path)
    return path


@pytest.fixture(scope="module")
def checkpoint(shop, tmp_path_factory):
    """A small T5 as transformers reads it, with that vocabulary."""
    path, model = tmp_path_factory.mktemp("t5"), (shop / "toyshop/spiece.model").read_bytes()
    source = folder(path / "source", vocab_size=1152)
    convert(source, path / "hf", "hf", find_vocabulary=lambda weights: model)
    return path / "hf"


def test_it_is_the_mean_of_the_states_of_each_text_alone(checkpoint):
    found = encode_texts(str(checkpoint), TEXTS)
    config, params = load_params(str(checkpoint))
    module = Transformer(T5Config(**config))
    encode = jax.jit(
        lambda t: module.apply({"params": params}, t, enable_dropout=False, method="encode")
    )
    vocabulary = sentencepiece.SentencePieceProcessor(str(checkpoint / "spiece.model"))
    assert found.shape == (len(TEXTS), module.config.emb_dim)
    for row, text in zip(found, TEXTS, strict=True):
        tokens = [*vocabulary.encode(text)[: LONGEST - 1], 1]
        states = encode(jnp.array([tokens]))[0]
        np.testing.assert_allclose(row, states.mean(axis=0), atol=1e-5)


def test_ids_are_made_of_them(shop, checkpoint, tmp_path):
    options = ["--item_ids", "rkmeans", "--id_codes", "2x6", "--vocab_size", 400]
    options += ["--id_vectors", checkpoint, "--data_dir", tmp_path]
    small = ["prepare", "toyshop", "--users", 60, "--items", 50]
    assert f"rkmeans of {checkpoint}" in run(*small, *options)
    domain = domains.load("toyshop", tmp_path)
    assert len({*domain.item_ids}) == 50
    # By hand.
    texts = domain.items[["title", "brand", "categories"]].agg(" ".join, axis=1)
    rows = vectors.principal(encode_texts(str(checkpoint), texts.tolist()), codes.SIZE)
    made = codes.make("rkmeans", rows, 2, 6, 0)
    np.testing.assert_array_equal(domain.codes.codes, made.codes)
    assert "nothing was done" in run(*small, *options)
    assert any(name.startswith("id_vectors/") for name in domain.statistics["sources"])


def test_parameters_without_a_vocabulary_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no vocabulary \(spiece.model\) beside"):
        encode_texts(str(folder(tmp_path / "t5")), ["a"])
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="is not a checkpoint"):
        encode_texts(str(tmp_path / "none"), ["a"])
