"""The split of the ratings, against its definition."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.domains import rating, storage
from recalign.domains.assemble import assemble
from recalign.domains.domain import SPLITS
from recalign.domains.readers import toyshop
from tests.splits import rated as rated_of


def rated(domain, seed=0, missing=0.0):
    rng = np.random.default_rng(seed)
    ratings = rng.integers(1, 6, len(domain.events)).astype(np.float32)
    ratings[rng.random(len(ratings)) < missing] = np.nan
    return dataclasses.replace(domain, ratings=ratings)


@pytest.fixture(scope="module")
def shop():
    return rated(assemble(toyshop.generate(users=150, items=60), "shop", seed=3), missing=0.05)


def newest_ratings(domain):
    """{(user, item): (position, rating)} of the train events, the newest of each pair."""
    train, found = domain.train(), {}
    for user in range(domain.num_users):
        events = train.events[train.offsets[user] : train.offsets[user + 1]]
        for age, item in enumerate(events.tolist()):
            rating = domain.ratings[domain.offsets[user] + age]
            if np.isfinite(rating):
                found[user, item] = (age, float(rating))
    return found


def ratings_of(split):
    pairs = zip(split.users.tolist(), split.items.tolist(), strict=True)
    return dict(zip(pairs, split.ratings.tolist(), strict=True))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.floats(0, 0.9))
def test_every_rating_of_train_events_is_in_one_split(seed, missing):
    shop = assemble(toyshop.generate(users=12, items=30), "shop", seed)
    events, first = shop.events.copy(), shop.offsets[:-1][shop.lengths > 4]
    events[first + 1] = events[first]  # rated again, of which the newest counts
    shop = rated(dataclasses.replace(shop, events=events), seed, missing)
    whole = {pair: rating for pair, (_, rating) in newest_ratings(shop).items()}
    found = [ratings_of(shop.rating_split(name)) for name in SPLITS]
    assert sum(map(len, found)) == len(whole)
    assert {k: v for part in found for k, v in part.items()} == whole
    train = found[0]
    assert {user for user, _ in whole} == {user for user, _ in train}
    assert {item for _, item in whole} == {item for _, item in train}


def test_shares_are_8_1_1(shop):
    sizes = [len(shop.rating_split(name)) for name in SPLITS]
    assert sizes[1] == sizes[2] == sum(sizes) // 10


def test_a_history_is_the_users_other_training_ratings_oldest_first(shop):
    whole, train = newest_ratings(shop), ratings_of(shop.rating_split("train"))
    for name in SPLITS:
        split = shop.rating_split(name)
        for e in range(len(split)):
            user, asked = split.users[e], split.items[e]
            expected = sorted(
                (whole[pair][0], pair[1], rating)
                for pair, rating in train.items()
                if pair[0] == user and pair[1] != asked
            )
            items, ratings = rated_of(split, e)
            assert [(i, r) for _, i, r in expected] == [*zip(items, ratings, strict=True)]


def test_a_seed_decides(shop):
    def parts(seed):
        return dataclasses.replace(shop, seed=seed).rating_parts.tolist()

    assert parts(1) == parts(1) != parts(2)


@pytest.mark.parametrize("block", [1, 7])
def test_where_many_ratings_are_cut_has_no_say(shop, tmp_path, monkeypatch, block):
    [whole] = shop.draw_rating_parts()
    monkeypatch.setattr(rating, "_BLOCK", block)
    for scratch in (None, tmp_path):
        [parts] = shop.draw_rating_parts(scratch)
        np.testing.assert_array_equal(parts, whole)


def test_held_out_events_have_no_part(shop):
    lengths = shop.lengths
    for user in np.flatnonzero(lengths >= 3):
        assert set(shop.rating_parts[shop.offsets[user + 1] - 2 : shop.offsets[user + 1]]) == {-1}


def test_it_is_stored(shop, tmp_path):
    shop = dataclasses.replace(
        shop, statistics={"users": shop.num_users, "recalign_version": "any"}
    )
    (tmp_path / "shop").mkdir()
    storage.write(shop, tmp_path / "shop")
    loaded = storage.load("shop", tmp_path)
    assert loaded.stored_parts is not None
    assert loaded.has_rating_task
    np.testing.assert_array_equal(loaded.rating_parts, shop.rating_parts)


def test_whoever_has_nothing_held_out_has_a_part_of_everything(shop):
    end = shop.num_events
    assert shop.lengths[-1] > 3
    short = dataclasses.replace(
        shop,
        offsets=np.array([*shop.offsets[:-1], end - 3, end - 1, end]),  # two events, and one
        events=np.append(shop.events[:-3], [0, 1, 2]).astype(np.int32),
        ratings=np.append(shop.ratings[:-3], [3, 4, 5]).astype(np.float32),
    )
    assert (short.rating_parts[-3:] >= 0).all()


def test_ratings_too_few_to_hold_any_out_are_no_task(shop):
    few = dataclasses.replace(shop, ratings=np.where(np.arange(shop.num_events) < 9, 4, np.nan))
    assert len(few.rating_split("train")) > 0
    assert not few.has_rating_task


def test_without_ratings_there_is_none(shop):
    unrated = dataclasses.replace(shop, ratings=None)
    assert not unrated.has_rating_task
    with pytest.raises(ValueError, match="no rating split"):
        unrated.rating_split("train")
