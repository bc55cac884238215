"""Groups of examples, against their definitions on small random shops."""

import itertools

import numpy as np
import pytest

from recalign.domains import Sequences
from recalign.evaluation.groups import GROUPS, group_examples, with_groups
from recalign.evaluation.outcomes import evaluate_lists, summarise
from recalign.evaluation.report import format_tables

ITEMS = 12


def sequences(rng, users, items):
    lengths = rng.integers(0, 6, users)
    lengths[-2:] = 0  # the last ones may have nothing
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(offsets, rng.integers(0, items, offsets[-1]).astype(np.int32))


@pytest.fixture(params=range(5))
def shop(request):
    """Train, histories and targets; the last two items are never bought."""
    rng = np.random.default_rng(request.param)
    train, histories = sequences(rng, 9, ITEMS - 2), sequences(rng, 30, ITEMS)
    return train, histories, rng.integers(0, ITEMS, 30)


def test_groups_are_what_their_names_say(shop):
    train, histories, targets = shop
    found = group_examples(train, ITEMS, *histories, targets)
    assert tuple(found) == GROUPS
    baskets = [b.tolist() for b in np.split(train.events, train.offsets[1:-1])]
    bought = [sum(item in [e] for b in baskets for e in b) for item in range(ITEMS)]
    number = -(-sum(n > 0 for n in bought) // 5)
    head = sorted(range(ITEMS), key=lambda item: (-bought[item], item))[:number]
    pairs = {pair for b in baskets for pair in itertools.pairwise(b)}
    for e, target in enumerate(targets.tolist()):
        history = histories.events[histories.offsets[e] : histories.offsets[e + 1]].tolist()
        group = "cold" if not bought[target] else "head" if target in head else "tail"
        step = "seen" if history and (history[-1], target) in pairs else "unseen"
        inside = {name for name, members in found.items() if members[e]}
        assert inside == {group, f"transition_{step}"}


def test_hit_rates_are_of_the_members_and_their_weighted_mean_is_the_whole(shop):
    train, histories, targets = shop
    ranked = np.random.default_rng(1).permuted(np.tile(np.arange(ITEMS), (30, 1)), axis=1)
    plain = evaluate_lists(ranked, targets, ITEMS, "full", np.arange(30))
    found = with_groups(plain, train, ITEMS, *histories, targets)
    assert found.outcomes is plain.outcomes
    assert plain.metrics.items() <= found.metrics.items()
    rates = {name: found.metrics.get(f"full/hr@10/{name}", 0) for name in GROUPS}
    numbers = {name: found.metrics[f"full/examples/{name}"] for name in GROUPS}
    members = group_examples(train, ITEMS, *histories, targets)
    hit = (ranked[:, :10] == targets[:, None]).any(axis=1)
    for name, inside in members.items():
        assert numbers[name] == inside.sum()
        assert (f"full/hr@10/{name}" in found.metrics) == inside.any()
        assert not inside.any() or rates[name] == pytest.approx(hit[inside].mean())
    for parts in (GROUPS[:3], GROUPS[3:]):
        assert sum(numbers[p] for p in parts) == 30
        whole = sum(rates[p] * numbers[p] for p in parts) / 30
        assert whole == pytest.approx(found.metrics["full/hr@10"])
    rows = {"recalign": summarise([found, found]), "ahead": {"full/hr@10": 0.1}}
    table = format_tables(rows).split("full/hr@10 by the target")[1]
    shown = [name for name in GROUPS if numbers[name]]
    head = [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]
    assert head[1:] == [f"{name} ({numbers[name]:.0f})" for name in shown]
    assert [f"{rates[name]:.4f}" in table for name in shown] == [True] * len(shown)
    assert "ahead" not in table


def test_short_lists_have_no_groups(shop):
    train, histories, targets = shop
    short = evaluate_lists(np.zeros((30, 5), int), targets, ITEMS, "full", np.arange(30))
    assert with_groups(short, train, ITEMS, *histories, targets).metrics == short.metrics
