"""Metrics against brute force, against `ir_measures`, and by the rules they state."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.evaluation import metrics

NUM_ITEMS = 30


@st.composite
def lists(draw, depth=20):
    """Random lists with repeats, empty slots and non-items; targets; histories."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    examples = draw(st.integers(1, 12))
    ranked = rng.integers(-3, NUM_ITEMS + 3, (examples, depth)).astype(np.int32)
    targets = rng.integers(0, NUM_ITEMS, examples).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 6, examples))])
    events = rng.integers(0, NUM_ITEMS, offsets[-1]).astype(np.int32)
    return ranked, targets, offsets, events


def brute_force(ranked, targets, num_items):
    """`full_ranking`, as slow and plain as can be."""
    sums = dict.fromkeys(metrics.full_ranking(ranked, targets, num_items), 0.0)
    shown, slots = set(), ranked.size
    for row, target in zip(ranked.tolist(), targets.tolist(), strict=True):
        rank = row.index(target) + 1 if target in row else math.inf
        for k in (1, 5, 10, 20):
            if rank <= k:
                sums[f"full/hr@{k}"] += 1 / len(targets)
                sums[f"full/ndcg@{k}"] += 1 / math.log2(rank + 1) / len(targets)
        if rank <= 10:
            sums["full/mrr@10"] += 1 / rank / len(targets)
        for slot, item in enumerate(row):
            real = 0 <= item < num_items
            sums["full/invalid_rate"] += (not real and item != -1) / slots
            sums["full/duplicate_rate"] += (real and item in row[:slot]) / slots
            if real and slot < 10:
                shown.add(item)
    sums["full/coverage@10"] = len(shown) / num_items
    return sums


@given(lists())
@settings(deadline=None, max_examples=60)
def test_full_ranking_agrees_with_brute_force(drawn):
    ranked, targets, *_ = drawn
    got = metrics.full_ranking(ranked, targets, NUM_ITEMS)
    assert got == pytest.approx(brute_force(ranked, targets, NUM_ITEMS), abs=1e-12)
    assert all(type(value) is float for value in got.values())


def test_full_ranking_agrees_with_ir_measures():
    ir = pytest.importorskip("ir_measures", reason="ir_measures is not installed: no oracle")
    rng = np.random.default_rng(0)
    ranked = np.stack([rng.permutation(60)[:20] for _ in range(300)]).astype(np.int32)
    targets = rng.integers(0, 60, 300).astype(np.int32)
    oracle = ir.calc_aggregate(
        [ir.RR @ 10, *(measure @ k for measure in (ir.Success, ir.nDCG) for k in (1, 5, 10, 20))],
        [ir.Qrel(str(e), str(t), 1) for e, t in enumerate(targets)],
        [
            ir.ScoredDoc(str(e), str(item), -float(slot))
            for e, row in enumerate(ranked)
            for slot, item in enumerate(row)
        ],
    )
    ours = {"Success": "hr", "nDCG": "ndcg", "RR": "mrr"}
    got = metrics.full_ranking(ranked, targets, 60)
    for measure, value in oracle.items():
        name = f"full/{ours[measure.NAME]}@{measure['cutoff']}"
        assert got[name] == pytest.approx(value, abs=1e-9), name


@given(lists(), st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_removal_in_parts_changes_nothing(drawn, part):
    ranked, _, offsets, events = drawn
    whole = metrics.remove_seen(ranked, offsets, events)
    # Offsets may start anywhere: the examples after the first ones.
    assert np.array_equal(metrics.remove_seen(ranked[1:], offsets[1:], events), whole[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "HISTORIES_AT_ONCE", part)
        assert np.array_equal(metrics.remove_seen(ranked, offsets, events), whole)


def oracle(targets, runs, measures):
    """Means by ir_measures; `runs` are lists of (item, score) an example."""
    ir = pytest.importorskip("ir_measures", reason="ir_measures is not installed: no oracle")
    found = ir.calc_aggregate(
        [ir.parse_measure(measure) for measure in measures],
        [ir.Qrel(str(e), str(t), 1) for e, t in enumerate(targets)],
        [
            ir.ScoredDoc(str(e), str(item), float(score))
            for e, run in enumerate(runs)
            for item, score in run
        ],
    )
    return {str(measure): value for measure, value in found.items()}


@given(lists())
@settings(deadline=None, max_examples=20)
def test_lists_with_repeats_and_non_items_agree_with_ir_measures(drawn):
    ranked, targets, *_ = drawn
    runs = []
    for row in ranked.tolist():
        # By the rules: a repeat or what is no item keeps its slot, as something of no relevance.
        names = [
            item if item not in row[:slot] and 0 <= item < NUM_ITEMS else f"slot {slot}"
            for slot, item in enumerate(row)
        ]
        runs.append([(name, -slot) for slot, name in enumerate(names)])
    got = metrics.full_ranking(ranked, targets, NUM_ITEMS)
    names = {f"Success@{k}": f"full/hr@{k}" for k in (1, 5, 10, 20)}
    names |= {f"nDCG@{k}": f"full/ndcg@{k}" for k in (1, 5, 10, 20)} | {"RR@10": "full/mrr@10"}
    for measure, value in oracle(targets.tolist(), runs, names).items():
        assert got[names[measure]] == pytest.approx(value, abs=1e-9), measure


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None, max_examples=20)
def test_candidates_agree_with_ir_measures(seed, tied):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 30, (8, 100)) if tied else rng.permutation(800).reshape(8, 100)
    positives = rng.integers(0, 100, 8)
    # By the rule, a tie goes against the positive: a hair less than its score says the same.
    less = 0.5 * (np.arange(100) == positives[:, None])
    runs = [list(enumerate(row)) for row in scores - less]
    names = {f"Success@{k}": f"cand100/hr@{k}" for k in (1, 5, 10)}
    names |= {f"nDCG@{k}": f"cand100/ndcg@{k}" for k in (5, 10)}
    got = metrics.candidate_ranking(scores.astype(np.float32), positives)
    for measure, value in oracle(positives.tolist(), runs, names).items():
        assert got[names[measure]] == pytest.approx(value, abs=1e-9), measure


number = st.floats(-10, 10) | st.sampled_from([math.nan, math.inf, -math.inf])


@given(st.lists(st.tuples(number, st.floats(1, 5)), min_size=1), st.floats(1, 5))
@settings(deadline=None)
def test_ratings_agree_with_brute_force(pairs, fallback):
    errors = [abs((p if math.isfinite(p) else fallback) - y) for p, y in pairs]
    got = metrics.rating(*np.array(pairs).T, fallback=fallback)
    assert got == pytest.approx(
        {
            "rating/rmse": math.sqrt(sum(e * e for e in errors) / len(errors)),
            "rating/mae": sum(errors) / len(errors),
            "rating/parse_rate": sum(math.isfinite(p) for p, _ in pairs) / len(pairs),
        }
    )


def test_repeats_and_non_items_keep_their_slots():
    ranked = np.array([[4, 4, -2, 99, 7, 7]], np.int32)
    got = metrics.full_ranking(ranked, np.array([7]), num_items=10)
    assert got["full/hr@1"] == 0
    assert got["full/ndcg@5"] == pytest.approx(1 / math.log2(6))  # rank 5, and only once
    assert got["full/duplicate_rate"] == pytest.approx(2 / 6)
    assert got["full/invalid_rate"] == pytest.approx(2 / 6)


def test_empty_slots_are_neither_invalid_nor_repeats():
    ranked = np.full((3, 20), -1, np.int32)
    got = metrics.full_ranking(ranked, np.array([0, 1, 2]), num_items=5)
    assert set(got.values()) == {0.0}


def test_cut_offs_deeper_than_the_list_are_left_out():
    ranked = np.arange(8, dtype=np.int32)[None]
    got = metrics.full_ranking(ranked, np.array([0]), num_items=8)
    assert set(got) == {
        *("full/hr@1", "full/hr@5", "full/ndcg@1", "full/ndcg@5"),
        *("full/invalid_rate", "full/duplicate_rate"),
    }


@pytest.mark.parametrize("slots", [10, 20])
def test_names_are_those_of_the_protocol_as_far_as_the_list_goes(slots):
    ranked = np.arange(slots, dtype=np.int32)[None]
    got = metrics.full_ranking(ranked, np.array([0]), num_items=20)
    expected = {f"{m}@{k}" for m in ("hr", "ndcg") for k in (1, 5, 10, 20) if k <= slots}
    expected |= {"mrr@10", "coverage@10", "invalid_rate", "duplicate_rate"}
    assert set(got) == {f"full/{name}" for name in expected}


@given(lists())
@settings(deadline=None, max_examples=60)
def test_remove_seen_agrees_with_brute_force(drawn):
    ranked, _, offsets, events = drawn
    expected = []
    for e, row in enumerate(ranked.tolist()):
        seen = set(events[offsets[e] : offsets[e + 1]].tolist())
        kept = [item for item in row if item not in seen]
        expected.append(kept + [-1] * (len(row) - len(kept)))
    got = metrics.remove_seen(ranked, offsets, events)
    assert got.dtype == ranked.dtype
    assert got.tolist() == expected


@pytest.mark.parametrize(
    ("ranked", "targets", "message"),
    [
        (np.zeros((0, 5), np.int32), np.zeros(0, np.int32), "not empty"),
        (np.zeros((2, 5), np.int32), np.zeros(3, np.int32), "a target each"),
        (np.zeros((2, 5), np.int32), np.array([0, 9]), "targets must be items"),
        (np.zeros((2, 5), np.int32), np.array([-1, 8]), "targets must be items"),
    ],
)
def test_full_ranking_refuses_what_it_cannot_judge(ranked, targets, message):
    with pytest.raises(ValueError, match=message):
        metrics.full_ranking(ranked, targets, num_items=9)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_candidate_ranking_agrees_with_brute_force(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 40, (6, 100)).astype(np.float32)  # few values, so many ties
    positives = rng.integers(0, 100, 6)
    ranks = []
    for row, column in zip(scores, positives, strict=True):
        others = np.delete(row, column)
        ranks.append(1 + sum(score >= row[column] for score in others))
    got = metrics.candidate_ranking(scores, positives)
    expected = {f"cand100/hr@{k}": np.mean([r <= k for r in ranks]) for k in (1, 5, 10)}
    expected |= {
        f"cand100/ndcg@{k}": np.mean([(r <= k) / math.log2(r + 1) for r in ranks]) for k in (5, 10)
    }
    assert got == pytest.approx(expected)
    # Where the columns stand must not matter.
    order = rng.permutation(100)
    assert metrics.candidate_ranking(scores[:, order], np.argsort(order)[positives]) == got


def test_a_constant_scorer_earns_nothing():
    assert set(metrics.candidate_ranking(np.zeros((4, 100)), 0).values()) == {0.0}


def test_a_lone_best_positive_earns_all():
    scores = np.zeros((4, 100))
    scores[:, 3] = 1
    assert set(metrics.candidate_ranking(scores, 3).values()) == {1.0}


def test_candidate_scores_must_have_a_rank():
    with pytest.raises(ValueError, match="1 candidate scores are NaN"):
        metrics.candidate_ranking(np.array([[1.0, np.nan]]), 0)
    with pytest.raises(ValueError, match="not empty"):
        metrics.candidate_ranking(np.zeros((0, 100)), 0)


def test_unparsable_ratings_are_filled_not_dropped():
    got = metrics.rating(np.array([5.0, np.nan, 3.0, np.inf]), np.array([4, 1, 3, 5]), fallback=4)
    assert got == pytest.approx(
        {
            "rating/rmse": math.sqrt((1 + 9 + 0 + 1) / 4),
            "rating/mae": (1 + 3 + 0 + 1) / 4,
            "rating/parse_rate": 0.5,
        }
    )


def test_rating_refuses_what_it_cannot_judge():
    with pytest.raises(ValueError, match="predictions for"):
        metrics.rating(np.ones(3), np.ones(4), fallback=3)
    with pytest.raises(ValueError, match="predictions for"):
        metrics.rating(np.ones(0), np.ones(0), fallback=3)
    with pytest.raises(ValueError, match="finite"):
        metrics.rating(np.ones(3), np.ones(3), fallback=np.nan)


@given(st.integers(0, 2**32 - 1), st.sampled_from([10, 15, 20]))
@settings(deadline=None, max_examples=30)
def test_beam_recall_agrees_with_brute_force(seed, slots):
    """Of lists whose last slots may be empty, in one of them all."""
    rng = np.random.default_rng(seed)
    exact, beam = (
        np.where(
            np.arange(slots) < rng.integers(1, slots + 1, (6, 1)),
            np.stack([rng.permutation(NUM_ITEMS)[:slots] for _ in range(6)]),
            metrics.EMPTY,
        )
        for _ in range(2)
    )
    exact[0] = metrics.EMPTY
    expected = {}
    for k in (10, 20)[: 1 + (slots == 20)]:
        tops = [{*row[:k]} - {metrics.EMPTY} for row in exact.tolist()[1:]]
        found = [{*row[:k]} for row in beam.tolist()[1:]]
        shares = [len(top & own) / len(top) for top, own in zip(tops, found, strict=True)]
        expected[f"full/beam_recall@{k}"] = np.mean(shares)
    assert metrics.beam_recall(beam, exact) == pytest.approx(expected)
