"""Candidate lists, against what they must never hold and against what is equally likely."""

import dataclasses
import hashlib
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.domains import candidates, storage
from recalign.domains.assemble import assemble
from recalign.domains.domain import Domain
from recalign.domains.readers import toyshop

HELD_OUT = ("validation", "test")


def domain_of(histories, items, seed=0) -> Domain:
    """A domain whose user u has the events histories[u]; of its catalogue only the size counts."""
    table = pd.DataFrame({"key": [f"i{i}" for i in range(items)]})
    return Domain(
        name="any",
        items=table,
        offsets=np.cumsum([0, *map(len, histories)]),
        events=np.concatenate([np.array(h, np.int32) for h in histories]).astype(np.int32),
        seed=seed,
    )


def check(domain, name):
    lists, split = domain.candidates(name), domain.split(name)
    assert lists.dtype == np.int32
    assert len(lists) == len(split)
    for e, row in enumerate(lists):
        user = split.users[e]
        touched = domain.events[domain.offsets[user] : domain.offsets[user + 1]]
        assert len(set(row.tolist())) == len(row)
        assert set(row.tolist()) & set(touched.tolist()) == {split.targets[e]}
        assert 0 <= row.min() <= row.max() < domain.num_items
    return lists


histories = st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=12), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(histories.filter(lambda h: max(map(len, h)) >= 3), st.sampled_from(HELD_OUT))
def test_a_list_is_the_target_and_distinct_untouched_items(histories, name):
    domain = domain_of(histories, items=20)
    # Of the held-out events only their number counts, see tests/samples/test_no_leaks.py.
    most = max(len(set(h[:-2] if len(h) >= 3 else h)) for h in histories)
    assert check(domain, name).shape[1] == 1 + 20 - most - 2


def test_every_list_is_as_long_as_the_longest_history_allows():
    domain = domain_of([range(3), range(12)], items=105)
    assert check(domain, "test").shape == (2, 1 + 105 - 12)


@pytest.mark.parametrize("table_bytes", [1, 5000, 1 << 26])
def test_99_negatives_where_the_catalogue_has_them(monkeypatch, table_bytes):
    monkeypatch.setattr(candidates, "TABLE_BYTES", table_bytes)
    domain = assemble(toyshop.generate(users=60, items=300), "shop")
    for name in HELD_OUT:
        assert check(domain, name).shape[1] == 100


def test_every_untouched_item_is_as_likely_and_so_is_every_column():
    domain = domain_of([[0, 1, 2]] * 3000, items=13)
    lists = domain.candidates("test")
    counts = np.bincount(np.argmax(lists == 2, axis=1), minlength=lists.shape[1])
    assert np.abs(counts - 3000 / len(counts)).max() < 5 * np.sqrt(3000 / len(counts))
    # With four negatives of the ten untouched items, each is as likely as another.
    asked = (domain, domain.split("test").users, np.full(3000, 2))
    drawn = np.concatenate([*candidates.draw([asked], 13, 4, (0,))])
    counts = np.bincount(drawn.ravel(), minlength=13)
    assert counts[[0, 1]].tolist() == [0, 0]
    assert counts[2] == 3000
    assert np.abs(counts[3:] - 1200).max() < 5 * np.sqrt(1200 * 0.6)
    pairs = Counter(tuple(sorted(set(row.tolist()) - {2}))[:2] for row in drawn)
    assert len(pairs) > 20


def test_what_others_have_has_no_say(monkeypatch):
    """Be they in other chunks, or between those who are asked about and too short to be."""
    monkeypatch.setattr(candidates, "CHUNK_ROWS", 100)
    touched = np.repeat([[0, 1, 2], [3, 4, 5]], 500, axis=0)
    domain = domain_of([h for own in touched.tolist() for h in ([7, 8], own)], items=13)
    split = domain.split("test")
    lists = [*candidates.draw([(domain, split.users, split.targets)], 13, 4, (0,))]
    assert [len(chunk) for chunk in lists] == [100] * 10
    for drawn, own in zip(np.split(np.concatenate(lists), 2), touched[[0, -1]], strict=True):
        counts = np.bincount(drawn.ravel(), minlength=13)
        assert counts[own].tolist() == [0, 0, 500]
        free = np.delete(counts, own)
        assert np.abs(free - 200).max() < 5 * np.sqrt(200 * 0.6)


def test_a_seed_decides_and_the_splits_differ():
    shop = assemble(toyshop.generate(users=40, items=200), "shop", seed=1)
    again = dataclasses.replace(shop)
    np.testing.assert_array_equal(shop.candidates("test"), again.candidates("test"))
    other = dataclasses.replace(shop, seed=2)
    assert (shop.candidates("test") != other.candidates("test")).any()
    negatives = []
    for name in HELD_OUT:
        pairs = zip(shop.candidates(name).tolist(), shop.split(name).targets, strict=True)
        negatives.append([{*row} - {target} for row, target in pairs])
    assert all(one != two for one, two in zip(*negatives, strict=True))


def test_stored_lists_are_mapped_and_hashed(tmp_path):
    shop = assemble(toyshop.generate(users=40, items=200), "shop")
    shop = dataclasses.replace(
        shop, statistics={"users": shop.num_users, "recalign_version": "any"}
    )
    (tmp_path / "shop").mkdir()
    storage.write(shop, tmp_path / "shop")
    loaded = storage.load("shop", tmp_path)
    for name in HELD_OUT:
        assert isinstance(loaded.candidates(name), np.memmap)
        np.testing.assert_array_equal(loaded.candidates(name), shop.candidates(name))
        content = (tmp_path / f"shop/candidates_{name}.npy").read_bytes()
        assert loaded.statistics["candidates"][name] == {
            "candidates": 100,
            "sha256": hashlib.sha256(content).hexdigest(),
        }


def test_train_has_no_stored_lists():
    with pytest.raises(ValueError, match="no candidate lists"):
        domain_of([[0, 1, 2]], items=13).candidates("train")
