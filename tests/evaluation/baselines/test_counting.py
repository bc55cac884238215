"""Rankers that count: against brute force, by their rules, and on real Beauty and Toys."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.evaluation.baselines import rankers
from recalign.evaluation.baselines.counting import ItemCooccurrence, Popularity
from recalign.evaluation.baselines.rankers import Histories
from recalign.evaluation.metrics import full_ranking


def csr(sequences):
    lengths = [len(s) for s in sequences]
    return Histories(
        np.cumsum([0, *lengths]), np.array([x for s in sequences for x in s], np.int32)
    )


def train_csr(sequences):
    return csr(sequences)[:2]


@st.composite
def domains(draw):
    """Train sequences (repeats and empty ones too), histories, catalogue size."""
    num_items = draw(st.integers(1, 12))
    sequences = st.lists(st.lists(st.integers(0, num_items - 1), max_size=8), max_size=10)
    return draw(sequences), draw(sequences), num_items


def brute_popularity(train, num_items):
    counts = [sum(s.count(x) for s in train) for x in range(num_items)]
    return sorted(range(num_items), key=lambda x: (-counts[x], x))


def brute_cooccurrence(train, history, num_items):
    """The formula over dense user vectors; scores rounded so that equal ones compare equal."""
    vectors = np.array([[x in s for s in train] for x in range(num_items)], float)
    scores = np.zeros(num_items)
    for t, item in enumerate(reversed(history)):
        for x in range(num_items):
            norm = np.sqrt(vectors[x].sum() * vectors[item].sum())
            if x != item and norm:
                scores[x] += 0.7**t * (vectors[x] @ vectors[item]) / norm
    order = brute_popularity(train, num_items)
    return sorted(order, key=lambda x: -np.round(scores[x], 9))


def cut(items, history, k, remove_seen):
    kept = [x for x in items if not (remove_seen and x in history)][:k]
    return kept + [-1] * (k - len(kept))


@given(domains(), st.booleans(), st.sampled_from([1, 3, 15]), st.sampled_from([1, 20, 10**6]))
@settings(deadline=None, max_examples=150)
def test_rankers_agree_with_brute_force(domain, remove_seen, k, chunk_entries):
    train, histories, num_items = domain
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankers, "CHUNK_ENTRIES", chunk_entries)  # the answer must not change
        popular, near = (
            ranker.fit(*train_csr(train), num_items).rank(csr(histories), k, remove_seen)
            for ranker in (Popularity(), ItemCooccurrence())
        )
    assert popular.dtype == near.dtype == np.int32
    assert popular.shape == near.shape == (len(histories), k)
    order = brute_popularity(train, num_items)
    assert popular.tolist() == [cut(order, h, k, remove_seen) for h in histories]
    assert near.tolist() == [
        cut(brute_cooccurrence(train, h, num_items), h, k, remove_seen) for h in histories
    ]


@given(domains(), st.sampled_from([1, 20, 10**6]), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_scores_order_candidates_as_lists_do(domain, chunk_entries, seed):
    train, histories, num_items = domain
    rng = np.random.default_rng(seed)
    width = rng.integers(1, num_items + 1)
    candidates = np.array([rng.permutation(num_items)[:width] for _ in histories])
    candidates = candidates.reshape(len(histories), width).astype(np.int32)
    for ranker in (Popularity(), ItemCooccurrence()):
        ranker.fit(*train_csr(train), num_items)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rankers, "CHUNK_ENTRIES", chunk_entries)
            scores = ranker.score(csr(histories), candidates)
        ranked = ranker.rank(csr(histories), num_items, remove_seen=False)
        assert scores.shape == candidates.shape
        for row, own, order in zip(scores, candidates, ranked, strict=True):
            assert len(set(row)) == width  # no ties are left to be settled
            assert own[np.argsort(-row)].tolist() == [x for x in order if x in own]


def test_the_newest_item_counts_most():
    ranker = ItemCooccurrence().fit(*train_csr([[0, 1], [2, 3]]), 4)
    ranked = ranker.rank(csr([[0, 2], [2, 0]]), k=2, remove_seen=True)
    assert ranked.tolist() == [[3, 1], [1, 3]]


def test_a_long_history_overflows_nothing():
    ranker = ItemCooccurrence().fit(*train_csr([[0, 1], [2, 3]]), 5)
    ranked = ranker.rank(csr([[0] * 5000 + [4]]), k=4, remove_seen=True)
    assert ranked.tolist() == [[1, 2, 3, -1]]


@pytest.mark.parametrize("ranker", [Popularity(), ItemCooccurrence()])
def test_items_outside_the_catalogue_are_refused(ranker):
    with pytest.raises(ValueError, match="events must be items 0 … 1; got 0 … 2"):
        ranker.fit(*train_csr([[0, 2]]), 2)
    with pytest.raises(ValueError, match="do not span 2 events"):
        ranker.fit(np.array([0, 1]), np.array([0, 1]), 2)


def test_a_million_items_stay_sparse():
    rng = np.random.default_rng(0)
    num_items, users = 1_000_000, 2_000
    events = rng.integers(0, num_items, users * 10)
    offsets = np.arange(users + 1) * 10
    ranker = ItemCooccurrence().fit(offsets, events, num_items)
    ranked = ranker.rank(Histories(offsets[:201], events[:2000]), k=9, remove_seen=False)
    # With so many items, a user's basket has hardly any neighbours but itself.
    own = [np.isin(row, events[10 * u : 10 * u + 10]).mean() for u, row in enumerate(ranked)]
    assert np.mean(own) > 0.95


def leave_one_out(shared, name):
    """Train sequences, test histories and targets by the protocol, items in file order."""
    path = shared / "data" / "amazon-2014" / name / f"{name}.inter"
    table = pd.read_csv(path, sep="\t", header=0, names=["user", "item", "time"])
    user, item = pd.factorize(table.user)[0], pd.factorize(table.item)[0]
    dated = table.time.notna().groupby(user).transform("all")
    order = np.lexsort((table.time.where(dated, 0).to_numpy(), user))
    events = item[order].astype(np.int32)
    left = np.repeat(np.cumsum(np.bincount(user)), np.bincount(user)) - np.arange(len(events))
    users = np.arange(user.max() + 2)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user))])
    train = offsets - 2 * users, events[left > 2]
    histories = offsets - users, events[left > 1]
    return train, histories, events[left == 1], item.max() + 1


@pytest.mark.parametrize(
    ("name", "users", "expected"),
    [
        ("beauty", 22_363, {"hr@5": 0.0466, "ndcg@5": 0.0337, "hr@10": 0.0651, "ndcg@10": 0.0397}),
        ("toys", 19_412, {"hr@5": 0.0596, "ndcg@5": 0.0424, "hr@10": 0.0787, "ndcg@10": 0.0486}),
    ],
)
def test_item_cooccurrence_gives_the_design_s_row(shared, name, users, expected):
    train, histories, targets, num_items = leave_one_out(shared, name)
    assert len(targets) == users
    ranked = (
        ItemCooccurrence()
        .fit(*train, num_items)
        .rank(Histories(*histories), k=20, remove_seen=True)
    )
    got = full_ranking(ranked, targets, num_items, "full_unseen")
    for metric, value in expected.items():
        assert got[f"full_unseen/{metric}"] == pytest.approx(value, abs=5e-4), metric
    assert got["full_unseen/duplicate_rate"] == got["full_unseen/invalid_rate"] == 0
