"""Ids that are codes of k-means."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from recalign.domains import codes, storage
from recalign.domains.assemble import assemble
from recalign.domains.codes import METHODS, Codes, known_vectors, make, nearest
from recalign.domains.digest import digest
from recalign.domains.readers import toyshop
from recalign.domains.vectors import item_vectors
from recalign.errors import UserError


@pytest.fixture(scope="module")
def rows():
    """Four groups of ten vectors each, far apart, and two vectors that are the same."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(0, 9, (4, 6)), 10, axis=0) + rng.normal(0, 1, (40, 6))
    rows[1] = rows[0]
    return rows


def distances(one, other):
    return np.square(one[:, None] - other[None]).sum(axis=-1)


def test_each_residual_level_is_k_means_of_what_is_left_over(rows):
    found = make("rkmeans", rows, 3, 4, seed=1)
    assert len({*map(tuple, found.codes[:, :1].reshape(4, 10))}) == 4  # the groups, one code each
    assert (found.codes[:, 0].reshape(4, 10) == found.codes[::10, 0][:, None]).all()
    left = rows
    for level, centres in enumerate(found.codebooks):
        np.testing.assert_array_equal(found.codes[:, level], distances(left, centres).argmin(1))
        for code in range(4):  # where k-means stands still, a centre is the mean of its own
            own = left[found.codes[:, level] == code]
            np.testing.assert_allclose(centres[code], own.mean(axis=0), atol=1e-5)
        left = left - centres[found.codes[:, level]]
    assert np.square(left).sum() < np.square(rows - rows.mean(axis=0)).sum() / 10


def test_each_level_of_a_product_is_k_means_of_its_own_dimensions(rows):
    found = make("pq", rows, 2, 5, seed=1)
    for level, centres in enumerate(found.codebooks):
        assert not centres[:, 1 - level :: 2].any()
        own, centres = rows[:, level::2], centres[:, level::2]
        np.testing.assert_array_equal(found.codes[:, level], distances(own, centres).argmin(1))
        for code in range(5):
            members = own[found.codes[:, level] == code]
            np.testing.assert_allclose(centres[code], members.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_gives_the_same_codes(rows, method):
    one, same, other = (make(method, rows, 2, 6, seed) for seed in (3, 3, 4))
    assert all((vars(one)[name] == vars(same)[name]).all() for name in vars(one))
    assert (one.codes != other.codes).any()
    np.testing.assert_array_equal(nearest(one.codebooks, rows), one.codes)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("levels", "number"), [(1, 3), (3, 8)])
def test_ids_are_one_to_one_and_none_begins_another(rows, method, levels, number):
    found = make(method, rows, levels, number, seed=0)
    ids = found.texts().tolist()
    assert len({*ids}) == len(ids)
    assert not any(one != other and other.startswith(one) for one in ids for other in ids)
    groups = {}
    for row, counter, text in zip(found.codes.tolist(), found.counters, ids, strict=True):
        groups.setdefault(tuple(row), []).append(counter)
        letters = "abcd"[: levels + (counter >= 0)]
        assert "".join(token[1] for token in text.split(">")[:-1]) == letters
    for counters in groups.values():
        assert counters == ([-1] if len(counters) == 1 else [*range(len(counters))])
    pieces = found.pieces()
    assert (
        len({*pieces}) == len(pieces) == levels * number + max(16, max(map(len, groups.values())))
    )
    for text in ids:
        tokens = [f"{token}>" for token in f"\u2581{text}".split(">")[:-1]]
        assert {*tokens} <= {*pieces}


@pytest.mark.parametrize("method", METHODS)
def test_further_items_get_the_nearest_codes_that_begin_no_other_id(rows, method):
    found = make(method, rows, 2, 6, seed=0)
    rng = np.random.default_rng(5)
    new = np.concatenate([rows[rng.integers(0, 40, 25)], np.repeat(rows[:1], 5, axis=0)])
    grown = found.extend(new + rng.normal(0, 0.1, new.shape))
    assert grown.texts()[:40].tolist() == found.texts().tolist()
    assert grown.pieces() == found.pieces()
    np.testing.assert_array_equal(grown.codebooks, found.codebooks)
    ids = grown.texts().tolist()
    assert len({*ids}) == len(ids) == 70
    assert not any(one != other and other.startswith(one) for one in ids for other in ids)


def test_the_nearest_codes_come_first(rows):
    found = make("rkmeans", rows, 2, 6, seed=0)
    [*order] = codes._nearest_first(found.codebooks, rows[7])
    assert len({*order}) == 36
    assert order[0] == tuple(found.codes[7])
    first = distances(rows[7:8], found.codebooks[0])[0].argsort()
    assert [own[0] for own in order[::6]] == first.tolist()
    np.testing.assert_allclose(
        found.centres()[7],
        sum(found.codebooks[level][code] for level, code in enumerate(found.codes[7])),
    )


def test_where_no_codes_are_left_that_is_told():
    with pytest.raises(UserError, match="no codes are left for a new item"):
        make("rkmeans", np.eye(2), 1, 2, seed=0).extend(np.ones((1, 2)))


def test_what_is_told_of_codes():
    rows = np.array([[0, 1], [0, 1], [0, 1], [1, 0], [2, 0], [3, 0]], np.int32)
    found = Codes(rows, codes._count(rows), np.zeros((2, 4, 3), np.float32)).describe()
    assert found["collision_rate"] == 0.5
    assert found["largest_group"] == 3
    assert [level["used"] for level in found["levels"]] == [4, 2]
    share = np.array([3, 1, 1, 1]) / 6
    perplexity = np.prod(share**-share)
    assert found["levels"][0]["perplexity"] == round(perplexity, 2)
    assert found["levels"][1]["perplexity"] == 2


def test_more_codes_than_vectors_that_differ_are_told_by_their_use():
    found = make("rkmeans", np.repeat(np.eye(3), 4, axis=0), 1, 8, seed=0)
    assert found.describe()["levels"][0]["used"] == 3
    assert found.describe()["largest_group"] == 4


@pytest.mark.parametrize(
    ("method", "shape", "message"),
    [
        ("rkmeans", (5, 9), r"--id_codes 3x6: the catalogue has 5 items, fewer than the 6 codes"),
        ("pq", (9, 2), r"--id_codes 3x6: vectors of 2 numbers cannot be parted into 3 levels"),
    ],
)
def test_too_little_is_refused(method, shape, message):
    with pytest.raises(UserError, match=message):
        make(method, np.random.default_rng(0).normal(size=shape), 3, 6, seed=0)


@pytest.mark.parametrize("source", ["co_occurrence", "both"])
def test_items_that_nobody_bought_are_where_the_nearest_texts_are(source):
    raw = toyshop.generate(users=60, items=40, seed=3)
    raw.items["title"] = [f"{row.title} {row.brand}" for row in raw.items.itertuples()]
    twin, wordless = raw.items.iloc[[0]].copy(), raw.items.iloc[[0]].copy()
    twin["key"], wordless["key"] = "twin", "wordless"
    wordless[["title", "brand", "categories"]] = ""
    for extra in (twin, wordless):
        raw.items.loc[len(raw.items)] = extra.iloc[0]
    shop = assemble(raw, "shop", 3)
    rows = known_vectors(source, shop.items, *shop.train())
    index = {key: i for i, key in enumerate(shop.items["key"])}
    bought = np.bincount(shop.train().events, minlength=shop.num_items) > 0
    before = item_vectors(source, shop.items, *shop.train(), codes.SIZE)
    np.testing.assert_array_equal(rows[bought], before[bought])
    others = rows[bought]
    near = distances(rows[[index["twin"]]], others)[0]
    own = np.flatnonzero(np.flatnonzero(bought) == index[raw.items["key"][0]])
    assert own.size == 0 or near[own[0]] <= np.median(near)
    assert rows[index["twin"]].any()
    assert not rows[index["wordless"]].any()
    titles = known_vectors("titles", shop.items, *shop.train())
    np.testing.assert_array_equal(
        titles, item_vectors("titles", shop.items, *shop.train(), codes.SIZE)
    )


@pytest.mark.parametrize("source", ["titles", "co_occurrence", "both"])
def test_items_that_nothing_is_known_of_get_no_codes(source):
    items = pd.DataFrame({"key": ["i0", "i1"], "title": "", "brand": "", "categories": ""})
    with pytest.raises(UserError, match=f"--id_vectors {source} tells no item from another"):
        known_vectors(source, items, np.array([0, 1, 2]), np.array([0, 1]))


def test_codes_are_kept_on_disk_and_have_a_say_in_the_fingerprint(small, tmp_path):
    rows = np.random.default_rng(0).normal(size=(6, 4))
    coded = dataclasses.replace(small, codes=make("rkmeans", rows, 2, 3, seed=0))
    (tmp_path / "small").mkdir()
    statistics = {"recalign_version": "0", "users": small.num_users}
    storage.write(dataclasses.replace(coded, statistics=statistics), tmp_path / "small")
    loaded = storage.load("small", tmp_path)
    for name, value in vars(coded.codes).items():
        np.testing.assert_array_equal(getattr(loaded.codes, name), value)
    assert loaded.item_ids.tolist() == coded.codes.texts().tolist()
    assert digest(loaded) == digest(coded) != digest(small)
    assert small.item_ids.tolist() == [f"#{i}" for i in range(6)]
