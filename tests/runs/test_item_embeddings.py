"""Embeddings of item tokens that start from vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recalign.domains import vectors
from recalign.domains.assemble import assemble
from recalign.domains.readers import toyshop
from recalign.engine.training.side_information import train_with_side_information
from recalign.errors import UserError
from recalign.runs.item_embeddings import (
    OWN,
    ItemEmbeddings,
    embeddings,
    start_item_embeddings,
)

SIZE, ROWS = 16, 90
STARTS = ("titles", "co_occurrence", "both")


@pytest.fixture(scope="module")
def domain():
    return assemble(toyshop.generate(users=80, items=40, seed=1), "shop", 1)


@pytest.fixture(scope="module")
def catalogue():
    """Each item's token, in an order of its own, and EOS."""
    tokens = np.random.default_rng(0).permutation(np.arange(20, 60))
    return np.stack([tokens, np.ones(40, int)], axis=1).astype(np.int32)


@pytest.fixture(scope="module")
def params():
    table = 3 + 5 * jax.random.normal(jax.random.key(0), (ROWS, SIZE))
    return {"token_embedder": {"embedding": table}, "decoder": {"kernel": jnp.ones(3)}}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("with_eos", [True, False])
def test_item_rows_are_vectors_and_all_else_stays(domain, catalogue, params, start, with_eos):
    options = ItemEmbeddings(start, seed=2)
    rows = catalogue if with_eos else catalogue[:, :1]
    started, _ = start_item_embeddings(params, options, domain, rows)
    before, after = (np.asarray(p["token_embedder"]["embedding"]) for p in (params, started))
    of_items = catalogue[:, 0]
    others = np.setdiff1d(np.arange(ROWS), of_items)
    np.testing.assert_array_equal(after[others], before[others])
    assert started["decoder"] is params["decoder"]
    wanted = embeddings(options, domain, SIZE)
    np.testing.assert_allclose((after[of_items] - before.mean()) / before.std(), wanted, atol=1e-5)
    assert abs(after[of_items].mean() - before.mean()) < before.std()
    assert after[of_items].std() == pytest.approx(before.std(), rel=1e-4)


def test_an_optimiser_that_knows_vectors_gets_them(domain, catalogue, params):
    optimizer = train_with_side_information(optax.sgd(0.1), size=24)
    options = ItemEmbeddings("both", seed=2)
    known = optimizer.init(params)
    started, known = start_item_embeddings(params, options, domain, catalogue, known)
    before, after = (np.asarray(p["token_embedder"]["embedding"]) for p in (params, started))
    of_items = catalogue[:, 0]
    others = np.setdiff1d(np.arange(ROWS), of_items)
    vectors = np.asarray(known.vectors)
    np.testing.assert_allclose(
        vectors[of_items], embeddings(options, domain, 24) * before.std(), rtol=1e-4, atol=1e-4
    )
    assert not vectors[others].any()
    np.testing.assert_array_equal(after[others], before[others])
    wanted = OWN * before[of_items] + vectors[of_items] @ np.asarray(known.kernel)
    np.testing.assert_allclose(after[of_items], wanted, rtol=1e-3, atol=1e-3)


def test_random_changes_nothing(domain, catalogue, params):
    assert start_item_embeddings(params, ItemEmbeddings(), domain, catalogue)[0] is params


@pytest.mark.parametrize("start", STARTS)
def test_a_seed_turns_the_vectors_and_changes_no_angle(domain, start):
    one, same, other = (embeddings(ItemEmbeddings(start, s), domain, 8) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert abs(one - other).max() > 0.1
    np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-3)
    assert one.std() == pytest.approx(1)


def test_both_are_explained_titles_in_three_quarters_of_the_dimensions(domain):
    said = vectors.explained_text_vectors(domain.items, *domain.train(), 6)
    bought = embeddings(ItemEmbeddings("co_occurrence"), domain, 2)
    both = embeddings(ItemEmbeddings("both"), domain, 8)
    said = (said - said.mean(axis=0)) / (said - said.mean(axis=0)).std()
    wanted, found = said @ said.T + bought @ bought.T, both @ both.T
    np.testing.assert_allclose(found / found.trace(), wanted / wanted.trace(), atol=1e-4)


@pytest.mark.parametrize("width", [3, SIZE, 30])
def test_vectors_of_the_users_own_of_any_length(domain, tmp_path, width):
    own = np.random.default_rng(0).normal(2, 7, (domain.num_items, width))
    np.save(tmp_path / "own.npy", own)
    found = embeddings(ItemEmbeddings(str(tmp_path / "own.npy")), domain, SIZE)
    assert found.shape == (domain.num_items, SIZE)
    if width == SIZE:  # as similar to each other as they were
        own = own - own.mean(axis=0)
        np.testing.assert_allclose(found @ found.T * own.var(), own @ own.T, atol=0.05)


def test_what_cannot_be_is_named(domain, catalogue, params):
    with pytest.raises(UserError, match=r"start is 'popularity': expected 'random', 'titles'"):
        start_item_embeddings(params, ItemEmbeddings("popularity"), domain, catalogue)
    longer = np.pad(catalogue, ((0, 0), (0, 1)))
    longer[7] = [20, 30, 1]
    with pytest.raises(UserError, match="item 7 is written in 2: prepare the domain with"):
        start_item_embeddings(params, ItemEmbeddings("titles"), domain, longer)
