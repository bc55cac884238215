"""The k-core, against dropping one user or item at a time."""

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from recalign.domains.kcore import k_core
from recalign.domains.raw import RawDomain
from recalign.errors import UserError

EVENTS = st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abcdef")), min_size=1)


def brute_force(events, k):
    events = list(events)
    while True:
        users, items = [e[0] for e in events], [e[1] for e in events]
        weak = next((e for e in events if users.count(e[0]) < k or items.count(e[1]) < k), None)
        if weak is None:
            return events
        events.remove(weak)


@given(EVENTS, st.integers(1, 4))
def test_against_brute_force(events, k):
    expected = brute_force(events, k)
    assume(expected)
    frame = pd.DataFrame(events, columns=["user", "item"])
    items = pd.DataFrame({"key": list("abcdefg")})
    core = k_core(RawDomain(frame, items), k)
    assert [tuple(row) for row in core.interactions.to_numpy()] == expected
    survivors = {item for _, item in expected}
    assert core.items["key"].tolist() == sorted(survivors)
    assert core.counts["k_core_dropped_interactions"] == len(events) - len(expected)
    assert core.counts["k_core_dropped_items"] == 7 - len(survivors)
    dropped = len({user for user, _ in events}) - len({user for user, _ in expected})
    assert core.counts["k_core_dropped_users"] == dropped


def test_a_chain_takes_several_rounds(raw):
    events = [("u1", "a"), ("u1", "b"), ("u2", "b"), ("u2", "c"), ("u3", "c"), ("u3", "d")]
    events += [("v", "x"), ("v", "y"), ("w", "x"), ("w", "y")]
    core = k_core(raw(events), 2)
    assert set(core.interactions["user"]) == {"v", "w"}
    assert core.counts == {
        "k_core_rounds": 3,
        "k_core_dropped_users": 3,
        "k_core_dropped_items": 4,
        "k_core_dropped_interactions": 6,
    }


def test_nothing_left_is_an_error(raw):
    with pytest.raises(UserError, match="--k-core 3 drops every interaction"):
        k_core(raw([("u", "a"), ("v", "b")]), 3)
