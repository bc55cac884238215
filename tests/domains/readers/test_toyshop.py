"""The toyshop: deterministic, plausible, and with the structure that it claims."""

import itertools
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from recalign.domains.assemble import assemble
from recalign.domains.readers import toyshop
from recalign.errors import UserError
from tests.splits import history as history_of


@pytest.fixture(scope="module")
def shop():
    return toyshop.generate()


@pytest.fixture(scope="module")
def domain(shop):
    return assemble(shop, "toyshop")


def test_the_default_shop(shop, domain):
    assert (domain.num_users, domain.num_items) == (2000, 300)
    assert shop.items["title"].is_unique
    assert shop.items["key"].is_unique
    assert domain.lengths.min() >= 5
    assert domain.lengths.max() <= 20
    assert 8 <= domain.lengths.mean() <= 12
    assert (shop.interactions.groupby("user")["item"].nunique() == domain.lengths).all()
    assert (shop.interactions.groupby("user")["timestamp"].diff().dropna() > 0).all()


def test_every_item_is_bought_often_and_popularity_is_skewed(domain):
    counts = np.sort(np.bincount(domain.train().events, minlength=domain.num_items))
    assert counts[0] >= 10
    assert counts[-15:].sum() > 2.5 * counts[:15].sum()


def test_titles_look_like_titles(shop):
    for row in shop.items.itertuples():
        words = row.title.split()
        assert words[0] == row.brand
        assert row.title.startswith(row.series)
        assert 4 <= len(words) <= 8
        assert row.categories in toyshop.CATEGORIES


def test_the_same_seed_gives_the_same_shop_and_another_seed_another():
    one, two, other = (toyshop.generate(50, 60, seed) for seed in (3, 3, 4))
    assert one.interactions.equals(two.interactions)
    assert one.items.equals(two.items)
    assert not one.items["title"].equals(other.items["title"])


@pytest.mark.parametrize("items", [30, 31, 47, 1000])
def test_other_sizes(items):
    shop = toyshop.generate(40, items, seed=items)
    assert len(shop.items) == shop.items["title"].nunique() == items
    histories = shop.interactions.groupby("user")["item"]
    assert (histories.nunique() == histories.size()).all()
    assert histories.size().between(5, 20).all()


@pytest.mark.parametrize(("users", "items"), [(0, 300), (10, 29), (10, 10**6)])
def test_sizes_that_cannot_be(users, items):
    with pytest.raises(UserError, match="a toyshop needs"):
        toyshop.generate(users, items)


@pytest.mark.parametrize("users", [10**9, 10**20, 10**4000])
def test_what_does_not_fit_into_memory_is_told_at_once(users, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=6 * 2**30))
    with pytest.raises(UserError, match=r"6\.0 GiB .* fits 3221225 users") as told:
        toyshop.generate(users, 300)
    assert len(str(told.value)) < 200


def ranks(domain, score):
    """int[m], the 0-based rank of each test target, items of the history removed."""
    split = domain.split("test")
    result = []
    for e, target in enumerate(split.targets):
        history = history_of(split, e)
        scores = np.array(score(history), float)
        scores[history] = -np.inf
        result.append((scores > scores[target]).sum())
    return np.array(result)


def oracles(domain):
    """Ranks by popularity, co-occurrence (cosine, decay 0.7) and a first-order Markov chain."""
    n = domain.num_items
    train = domain.train()
    popularity = np.bincount(train.events, minlength=n)
    together, follows = np.zeros((n, n)), np.zeros((n, n))
    for start, stop in itertools.pairwise(train.offsets):
        events = train.events[start:stop]
        together[np.ix_(events, events)] += 1
        follows[events[:-1], events[1:]] += 1
    np.fill_diagonal(together, 0)
    cosine = together / np.sqrt(np.outer(popularity, popularity))
    return {
        "popularity": ranks(domain, lambda h: popularity),
        "co-occurrence": ranks(domain, lambda h: 0.7 ** np.arange(len(h)) @ cosine[h[::-1]]),
        "markov": ranks(domain, lambda h: follows[h[-1]] + 1e-6 * popularity),
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_order_tells_more_than_co_occurrence_and_that_more_than_popularity(seed):
    by = oracles(assemble(toyshop.generate(seed=seed), "toyshop", seed))
    hits = {name: [float((r < k).mean()) for k in (1, 5, 10)] for name, r in by.items()}
    assert hits["popularity"][2] <= 0.08
    assert hits["markov"][2] >= 0.75
    for k in range(3):
        assert hits["popularity"][k] < hits["co-occurrence"][k] < hits["markov"][k]
    # The order shows at the top of the list: what was left out is no candidate to a chain.
    assert hits["markov"][0] > 2.5 * hits["co-occurrence"][0]
    assert hits["markov"][1] > 1.2 * hits["co-occurrence"][1]
