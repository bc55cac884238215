"""Rankers of vectors against brute force, ties and chunks included; BPR on planted tastes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.evaluation.baselines import rankers
from recalign.evaluation.baselines.counting import Popularity
from recalign.evaluation.baselines.factors import BPR
from recalign.evaluation.baselines.rankers import Histories, VectorRanker
from recalign.evaluation.metrics import full_ranking


class Given(VectorRanker):
    def __init__(self, users, items):
        self.users, self.items = users, items

    def vectors(self, histories):
        return self.users


@st.composite
def cases(draw):
    """A ranker of small whole numbers, so of exact sums and many ties, and histories."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    m, num_items = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    users = rng.integers(-1, 2, (m, 2)).astype(np.float32)
    items = rng.integers(-1, 2, (num_items, 2)).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 5, m))])
    histories = Histories(offsets, rng.integers(0, num_items, offsets[-1]))
    return Given(users, items), histories, rng


@given(cases(), st.booleans(), st.integers(1, 14), st.sampled_from([1, 30, 10**6]))
@settings(deadline=None, max_examples=150)
def test_lists_agree_with_brute_force(case, remove_seen, k, chunk_entries):
    ranker, histories, _ = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankers, "CHUNK_ENTRIES", chunk_entries)
        ranked = ranker.rank(histories, k, remove_seen)
    assert ranked.dtype == np.int32
    for e, row in enumerate(ranked.tolist()):
        scores = (ranker.items @ ranker.users[e]).tolist()
        seen = histories.events[histories.offsets[e] : histories.offsets[e + 1]]
        order = sorted(range(len(scores)), key=lambda x: (-scores[x], x))
        kept = [x for x in order if not (remove_seen and x in seen)][:k]
        assert row == kept + [-1] * (k - len(kept))


@given(cases(), st.sampled_from([1, 30, 10**6]))
@settings(deadline=None, max_examples=60)
def test_candidate_scores_are_those_of_the_items(case, chunk_entries):
    ranker, histories, rng = case
    candidates = rng.integers(0, len(ranker.items), (len(ranker.users), 7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankers, "CHUNK_ENTRIES", chunk_entries)
        scores = ranker.score(histories, candidates)
    everything = ranker.users @ ranker.items.T
    assert np.array_equal(scores, np.take_along_axis(everything, candidates, axis=1))


def test_early_stopping_looks_at_the_reported_metric():
    rng = np.random.default_rng(0)
    ranker = Given(*rng.normal(size=(2, 40, 3)).astype(np.float32))
    histories = Histories(3 * np.arange(41), rng.integers(0, 40, 120))
    targets = rng.integers(0, 40, 40)  # some of which stand in their own history
    ranked = ranker.rank(histories, 10, remove_seen=True)
    expected = full_ranking(ranked, targets, 40, "full_unseen")["full_unseen/ndcg@10"]
    assert 0 < expected < 1
    assert ranker.unseen_ndcg(histories, targets) == pytest.approx(expected, abs=1e-12)


def tastes(seed=0, users=120, per_taste=20, length=9):
    """Users of three tastes, each of which takes items of its own third of the catalogue."""
    rng = np.random.default_rng(seed)
    taken = np.array(
        [u % 3 * per_taste + rng.permutation(per_taste)[:length] for u in range(users)]
    )
    train = taken[:, :-1]
    offsets = (length - 1) * np.arange(users + 1)
    histories = Histories(offsets, train.ravel(), np.arange(users))
    return histories, taken[:, -1], 3 * per_taste


def test_bpr_finds_tastes_and_popularity_does_not():
    histories, targets, num_items = tastes()
    found = {
        type(ranker): full_ranking(
            ranker.fit(*histories[:2], num_items).rank(histories, 20, remove_seen=True),
            targets,
            num_items,
        )["full/hr@10"]
        for ranker in (Popularity(), BPR(factors=8, epochs=60))
    }
    # Twelve items of a taste are unseen: ten of them hold the target in 5 of 6 cases, and ten
    # items of the whole catalogue in 10 of 52.
    assert found[BPR] > 0.6
    assert found[Popularity] < 0.4


def test_bpr_depends_on_its_seed_alone():
    histories, targets, num_items = tastes(users=30)
    first, again, other = (
        BPR(histories, targets, factors=4, epochs=6, period=2, seed=seed)
        .fit(*histories[:2], num_items)
        .items
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_bpr_keeps_the_best_vectors_on_validation(monkeypatch):
    histories, targets, num_items = tastes(users=30)
    seen = []

    def judged(ranker, histories, targets):
        seen.append(ranker.items)
        return [0.1, 0.3, 0.2, 0.2, 0.9][len(seen) - 1]

    monkeypatch.setattr(VectorRanker, "unseen_ndcg", judged)
    ranker = BPR(histories, targets, factors=4, epochs=10, period=1, patience=2)
    ranker.fit(*histories[:2], num_items)
    assert len(seen) == 4  # two looks in a row without gain end it
    assert ranker.items is seen[1]
    assert not np.array_equal(seen[1], seen[2])


def test_bpr_needs_users():
    histories, _, num_items = tastes(users=30)
    ranker = BPR(factors=4, epochs=1).fit(*histories[:2], num_items)
    with pytest.raises(ValueError, match="there are no users"):
        ranker.rank(histories._replace(users=None), 5, remove_seen=False)
