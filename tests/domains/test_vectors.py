"""Vectors of items, against their formulas written out on a small shop."""

import re

import numpy as np
import pandas as pd
import pytest

from recalign.domains.assemble import assemble
from recalign.domains.readers import toyshop
from recalign.domains.vectors import (
    co_occurrence_vectors,
    explained_text_vectors,
    read_vectors,
    text_vectors,
)
from recalign.errors import UserError


@pytest.fixture(scope="module")
def shop():
    return assemble(toyshop.generate(users=60, items=40, seed=3), "shop", 3)


def of_texts(items):
    """The weighted matrix, by definition."""
    texts = [" ".join(row) for row in items[["title", "brand", "categories"]].to_numpy()]
    documents = [re.findall(r"\w+", text.lower()) for text in texts]
    words = sorted({word for words in documents for word in words})
    frequency = {word: sum(word in words for words in documents) for word in words}
    words = [word for word in words if frequency[word] > 1]
    matrix = np.array(
        [
            [
                (1 + np.log(d.count(w))) * np.log(len(documents) / frequency[w]) if w in d else 0.0
                for w in words
            ]
            for d in documents
        ]
    )
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(lengths > 0, lengths, 1)


def of_users(offsets, events, num_items):
    """The matrix of lifts, by definition."""
    together = np.zeros((num_items, num_items))
    for basket in np.split(events, offsets[1:-1]):
        for i in set(basket.tolist()):
            for j in set(basket.tolist()):
                together[i, j] += 1
    number = np.maximum(together.diagonal(), 1)
    np.fill_diagonal(together, 0)
    return np.log1p(together * (len(offsets) - 1) / np.outer(number, number))


@pytest.mark.parametrize("size", [6, 400])
def test_texts_are_decomposed_by_singular_values(shop, size):
    matrix = of_texts(shop.items)
    values = np.linalg.svd(matrix, compute_uv=False)
    values = values[values > 1e-9][:size]
    found = text_vectors(shop.items, size)
    assert found.dtype == np.float32
    # Times its transpose, the matrix only stretches them.
    np.testing.assert_allclose(found.T @ found, np.eye(len(values)), atol=1e-5)
    np.testing.assert_allclose(matrix @ matrix.T @ found, found * values**2, atol=1e-4)
    np.testing.assert_array_equal(found, text_vectors(shop.items, size))


@pytest.mark.parametrize("size", [5, 400])
def test_co_occurrence_is_decomposed_by_singular_values(shop, size):
    train = shop.train()
    left, values, _ = np.linalg.svd(of_users(*train, shop.num_items))
    kept = left[:, :size] * np.sqrt(values[:size])
    found = co_occurrence_vectors(*train, shop.num_items, size)
    np.testing.assert_allclose(found @ found.T, kept @ kept.T, atol=1e-5)
    np.testing.assert_array_equal(found, co_occurrence_vectors(*train, shop.num_items, size))


def test_of_texts_the_directions_are_kept_that_explain_who_buys_what(shop):
    train = shop.train()
    found = explained_text_vectors(shop.items, *train, 5)
    texts = text_vectors(shop.items, 400).astype(float)
    basis = np.linalg.svd(texts - texts.mean(axis=0), full_matrices=False)[0]
    basis = basis[:, : np.linalg.matrix_rank(texts - texts.mean(axis=0))]
    number = np.bincount(train.events, minlength=shop.num_items) * 1.0  # none is bought twice
    root = np.sqrt(number + 5)
    explained = basis @ basis.T @ (of_users(*train, shop.num_items) / np.outer(root, root))
    values, vectors = np.linalg.eigh(explained @ basis @ basis.T)
    best = vectors[:, ::-1][:, :5]
    assert values[-5] > values[-6] + 1e-6
    np.testing.assert_allclose(found @ found.T, best @ best.T, atol=1e-4)
    np.testing.assert_array_equal(found, explained_text_vectors(shop.items, *train, 5))


def test_a_large_catalogue_is_decomposed_nearly_as_well():
    rng, users, items = np.random.default_rng(0), 400, 1100
    taste = rng.integers(0, 20, users)
    events = np.concatenate([rng.integers(0, 55, 12) * 20 + t for t in taste])
    offsets = np.arange(users + 1) * 12
    found = co_occurrence_vectors(offsets, events, items, 30)
    best = np.linalg.svd(of_users(offsets, events, items), compute_uv=False)[:30]
    np.testing.assert_allclose(np.square(np.linalg.norm(found, axis=0)), best, rtol=0.02)
    np.testing.assert_array_equal(found, co_occurrence_vectors(offsets, events, items, 30))


def test_items_without_words_or_buyers_have_the_vector_0():
    items = pd.DataFrame({"title": ["a b", "", "b a"], "brand": "", "categories": ""})
    assert not text_vectors(items, 2)[1].any()
    assert not co_occurrence_vectors(np.array([0, 2]), np.array([0, 2]), 3, 2)[1].any()


def test_vectors_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = np.arange(6, dtype=np.float64).reshape(3, 2)
    keys = np.array(["x", "y", "z"], object)
    np.save(tmp_path / "v.npy", rows)
    table = pd.DataFrame(
        {"key": ["z", "y", "other", "x"], "a": [4.0, 2, 9, 0], "b": [5.0, 3, 9, 1]}
    )
    table.to_parquet(tmp_path / "columns.parquet")
    lists = table[["key"]].assign(vector=table[["a", "b"]].to_numpy().tolist())
    lists.to_parquet(tmp_path / "lists.parquet")
    for name in ("v.npy", "columns.parquet", "lists.parquet"):
        np.testing.assert_array_equal(read_vectors(tmp_path / name, keys), rows)
        np.testing.assert_array_equal(read_vectors(f"~/{name}", keys), rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 4)), r"shape \(2, 4\), but there are 3 items"),
        (np.zeros(3), r"shape \(3,\), but there are 3 items"),
        (np.array([[1.0], [np.nan], [np.inf]]), "vector of item 'y' .* not finite; 2 of 3 do"),
        (np.array([["a"], ["b"], ["c"]]), "no vectors of numbers"),
        (None, r"v\.npy: cannot be read"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(tmp_path, rows, message):
    if rows is not None:
        np.save(tmp_path / "v.npy", rows)
    with pytest.raises(UserError, match=message):
        read_vectors(tmp_path / "v.npy", np.array(["x", "y", "z"], object))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"key": ["x", "y"], "a": [1.0, 2.0]}, "no vector of 1 of 3 items, such as 'z'"),
        ({"item": ["x"], "a": [1.0]}, r"needs a column 'key' and vectors, but has \['item', 'a'\]"),
        ({"key": ["x", "y", "z"], "v": [[1.0], [1.0, 2.0], [1.0]]}, "all of one length"),
        ({"key": ["x", "y", "z"], "v": ["one", "two", "three"]}, "no vectors of numbers|shape"),
        ({"key": ["x", "y", "z"], "a": [1.0, None, 2.0]}, "vector of item 'y'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, table, message):
    pd.DataFrame(table).to_parquet(tmp_path / "v.parquet")
    with pytest.raises(UserError, match=message):
        read_vectors(tmp_path / "v.parquet", np.array(["x", "y", "z"], object))


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "v.csv").write_text("key,a\n")
    with pytest.raises(UserError, match=r"read from \.npy or \.parquet"):
        read_vectors(tmp_path / "v.csv", np.array(["x"], object))
    (tmp_path / "v.parquet").write_text("no table")
    with pytest.raises(UserError, match=r"v\.parquet"):
        read_vectors(tmp_path / "v.parquet", np.array(["x"], object))
