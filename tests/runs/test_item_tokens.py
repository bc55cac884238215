"""What new tokens of items start from."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import sentencepiece
from flax import traverse_util

from recalign.domains import codes, vocabulary
from recalign.domains.assemble import assemble
from recalign.domains.readers import toyshop
from recalign.engine.network.config import T5Config, parameter_shapes
from recalign.engine.weights.growth import TABLE
from recalign.errors import UserError
from recalign.evaluation.examples import Examples
from recalign.runs.initial_state import start_state
from recalign.runs.item_embeddings import ItemEmbeddings
from recalign.runs.item_tokens import ItemTokens, new_tokens
from tests.engine.weights.saving import save_params


@pytest.fixture(scope="module", params=["random", "rkmeans"])
def domain(request):
    shop = assemble(toyshop.generate(users=40, items=30, seed=1), "shop", 1)
    shop.items.loc[4, "title"] = ""
    if request.param == "random":
        return shop
    rows = np.random.default_rng(0).normal(size=(30, 6))
    return dataclasses.replace(shop, codes=codes.make(request.param, rows, 2, 6, seed=0))


@pytest.fixture(scope="module")
def folder(domain, tmp_path_factory):
    """A vocabulary without ids, and the same one extended by them."""
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "base").mkdir(), (folder / "own").mkdir()
    vocabulary.train(domain.items, [], 400, folder / "base")
    vocabulary.copy(folder / "base/spiece.model", folder / "own", domain.id_pieces)
    return folder


def of_titles(domain, folder):
    """The pieces of the titles of each new token's items, by definition."""
    base = sentencepiece.SentencePieceProcessor(str(folder / "base/spiece.model"))
    found = {piece.lstrip("\u2581"): [] for piece in domain.id_pieces}
    for text, title in zip(domain.item_ids, domain.items["title"], strict=True):
        for token in [text] if text.startswith("#") else [f"{t}>" for t in text.split(">")[:-1]]:
            found[token] += base.encode(title)
    return base.get_piece_size(), list(found.values())


def test_each_is_the_mean_of_the_pieces_of_its_titles(domain, folder):
    own = (folder / "own/spiece.model").read_bytes()
    first, expected = of_titles(domain, folder)
    found = new_tokens(own, [domain], ItemTokens(seed=5))
    assert (found.first, len(found), found.seed) == (first, len(expected), 5)
    table = np.random.default_rng(0).normal(size=(first, 3))
    for row, pieces in zip(found.means @ table, expected, strict=True):
        mean = table[pieces].mean(axis=0) if pieces else np.zeros(3)
        np.testing.assert_allclose(row, mean, atol=1e-12)
    assert any(not pieces for pieces in expected)  # no title, or a code that nothing has
    assert new_tokens(own, [domain], ItemTokens("random")).means.nnz == 0


def test_a_start_that_is_none_is_named():
    with pytest.raises(
        UserError, match=r"ItemTokens\.init is 'zeros': expected 'titles' or 'random'"
    ):
        ItemTokens("zeros")


class Extended:
    """All of `Data` that first parameters take."""

    def __init__(self, domain, folder, made_from):
        self._domain, self._folder, self._made_from = domain, folder, made_from

    def provenance(self):
        return {"vocabulary": self._made_from}

    def vocabulary(self):
        return (self._folder / "own/spiece.model").read_bytes()

    def examples(self, split, number):
        return [Examples("shop_retrieval", split, self._domain, [])]


def test_a_run_starts_from_a_table_that_has_grown(domain, folder, tmp_path):
    def network(rows):
        return T5Config(
            rows, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=12,
            num_encoder_layers=1, num_decoder_layers=1,
        )  # fmt: skip

    first, expected = of_titles(domain, folder)
    before, after = first + 100, -(-(first + 100) // 128) * 128 + 128
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(network(before))
    flat = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_params(traverse_util.unflatten_dict(flat, sep="/"), tmp_path / "c", "orbax")
    fresh = {
        name: jax.numpy.zeros(shape) for name, shape in parameter_shapes(network(after)).items()
    }
    model = SimpleNamespace(module=SimpleNamespace(config=network(after)))
    started = start_state(
        SimpleNamespace(params=traverse_util.unflatten_dict(fresh, sep="/")),
        SimpleNamespace(model=model, begin=lambda params: params),
        str(tmp_path / "c"),
        ItemTokens(),
        ItemEmbeddings(),
        Extended(domain, folder, "sha256 other"),
    )
    table = np.asarray(traverse_util.flatten_dict(started, sep="/")[TABLE])
    np.testing.assert_array_equal(table[:first], flat[TABLE][:first])
    for token, pieces in enumerate(expected):
        if pieces:
            mean = flat[TABLE][pieces].mean(axis=0)
            np.testing.assert_allclose(table[first + token], mean, rtol=1e-5, atol=1e-6)
