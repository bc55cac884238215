"""Order, item indices, leave-one-out, and that no event leaks into them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.domains.assemble import assemble
from recalign.domains.domain import SPLITS
from recalign.domains.raw import RawDomain
from recalign.errors import UserError
from tests.splits import history as history_of


def test_events_are_ordered_by_time_and_ties_keep_file_order(raw, keys_of):
    events = [("u", "a", 5), ("v", "x", 2), ("u", "b", 1), ("u", "c", 5), ("v", "y", 1)]
    events += [("u", "d", 1), ("u", "e", -3), ("v", "z", 2)]
    assert keys_of(assemble(raw(events), "d")) == {
        "u": ["e", "b", "d", "a", "c"],
        "v": ["y", "x", "z"],
    }


def test_a_user_with_any_missing_timestamp_keeps_file_order(raw, keys_of):
    events = [("u", "a", 9), ("u", "b", None), ("u", "c", 1), ("v", "x", 9), ("v", "y", 1)]
    events += [("v", "z", 5)]
    source = raw(events)
    domain = assemble(source, "d")
    assert keys_of(domain) == {"u": ["a", "b", "c"], "v": ["y", "z", "x"]}
    assert source.counts["users_in_file_order"] == 1
    np.testing.assert_array_equal(domain.timestamps, [9, np.nan, 1, 1, 5, 9])


def test_without_timestamps_events_keep_file_order(raw, keys_of):
    events = [("v", "y"), ("u", "c"), ("v", "x"), ("u", "a"), ("u", "b")]
    domain = assemble(raw(events), "d")
    assert keys_of(domain) == {"u": ["c", "a", "b"], "v": ["y", "x"]}
    assert domain.timestamps is None


def test_nearly_equal_large_timestamps_are_told_apart(raw, keys_of):
    events = [("u", "a", 2**62 + 2), ("u", "b", 2**62 + 1), ("u", "c", 2**62)]
    assert keys_of(assemble(raw(events), "d")) == {"u": ["c", "b", "a"]}


def test_the_catalogue_is_the_item_table_and_what_it_lacks(raw):
    events = [("u", "b", 1), ("u", "a", 2), ("u", "new", 3)]
    source = raw(events, [("a", "Ant"), ("b", "Bee"), ("c", "Cat")])
    domain = assemble(source, "d")
    assert domain.items.set_index("key")["title"].to_dict() == {
        "a": "Ant", "b": "Bee", "c": "Cat", "new": ""
    }  # fmt: skip
    assert source.counts["items_without_metadata"] == 1
    assert source.counts["items_without_interactions"] == 1
    assert "'new'" in source.warnings[0]


def test_a_table_of_other_items_alone_is_refused(raw):
    source = raw([("u", "7", n) for n in range(3)], [("007", "Bond"), ("008", "Other")])
    with pytest.raises(UserError, match="ids are like '007', in the interactions like '7'"):
        assemble(source, "d")


def test_extra_columns_of_items_that_the_table_lacks_are_empty(raw):
    source = raw([("u", "a", 1), ("u", "b", 2), ("u", "c", 3)], [("a", "Ant"), ("b", "Bee")])
    source.items["colour"] = ["red", "blue"]
    source.items["price"] = [1.5, 2.0]
    items = assemble(source, "d").items.set_index("key")
    assert items["colour"].to_dict() == {"a": "red", "b": "blue", "c": ""}
    assert np.isnan(items["price"]["c"])


def test_item_indices_are_a_seeded_permutation(raw):
    keys = [f"i{n:03d}" for n in range(200)]
    source = raw([("u", keys[n], n) for n in range(5)], [(key, "") for key in keys])
    one, same, other = (assemble(source, "d", seed).items["key"].tolist() for seed in (0, 0, 1))
    assert one == same
    assert one != other
    assert sorted(one) == sorted(other) == keys
    assert np.corrcoef(np.arange(200), np.argsort(one))[0, 1] < 0.2


def test_leave_one_out(small, keys_of):
    assert keys_of(small)["bob"] == ["i0", "i4", "i1"]
    index = {key: n for n, key in enumerate(small.items["key"])}
    expected = {
        "train": [("ann", ["i0", "i1"], "i2"), ("bob", [], "i0"), ("cid", [], "i3")],
        "validation": [("ann", ["i0", "i1", "i2"], "i3"), ("bob", ["i0"], "i4")],
        "test": [("ann", ["i0", "i1", "i2", "i3"], "i4"), ("bob", ["i0", "i4"], "i1")],
    }
    for name in SPLITS:
        split = small.split(name)
        assert len(split) == len(expected[name])
        for e, (user, history, target) in enumerate(expected[name]):
            assert small.user_keys[split.users[e]] == user
            assert history_of(split, e).tolist() == [index[key] for key in history]
            assert split.targets[e] == index[target]
    with pytest.raises(ValueError, match="no split 'dev'"):
        small.split("dev")


def test_ratings_go_with_their_events(small):
    ann_and_bob = small.ratings[: small.offsets[2]]
    np.testing.assert_array_equal(ann_and_bob, np.float32([0, 0.5, 1, 1.5, 2, 2, 3, 1]))


def test_array_types(small):
    split = small.split("validation")
    for array in (small.events, split.users, split.events, split.targets):
        assert array.dtype == np.int32
    for array in (small.offsets, split.offsets, small.train().offsets):
        assert array.dtype == np.int64
    assert small.ratings.dtype == np.float32


def test_a_domain_without_anything_to_test_is_refused(raw):
    with pytest.raises(UserError, match="3 interactions or more"):
        assemble(raw([("u", "a", 1), ("u", "b", 2), ("v", "a", 1)]), "d")


ITEMS = [f"i{n}" for n in range(8)]
HISTORIES = st.lists(st.lists(st.sampled_from(ITEMS), min_size=1, max_size=9), min_size=1).filter(
    lambda histories: max(map(len, histories)) >= 3
)


def of(histories):
    """A domain with the catalogue ITEMS, user n's events at the times 0, 1, 2, …."""
    rows = [(f"u{u}", i, t) for u, h in enumerate(histories) for t, i in enumerate(h)]
    frame = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    frame["timestamp"] = frame["timestamp"].astype("Int64")
    items = pd.DataFrame({"key": ITEMS, "title": ITEMS, "brand": "", "categories": ""})
    return assemble(RawDomain(frame, items), "d")


@given(HISTORIES, st.randoms(use_true_random=False))
def test_held_out_events_leave_no_trace_in_ids_and_train(histories, random):
    changed = [h[:-2] + random.choices(ITEMS, k=2) if len(h) >= 3 else list(h) for h in histories]
    before, after = of(histories), of(changed)
    pd.testing.assert_frame_equal(before.items, after.items)
    for one, two in zip(before.train(), after.train(), strict=True):
        assert one.tobytes() == two.tobytes()
    for field in ("users", "offsets", "events", "targets"):
        one, two = (getattr(domain.split("train"), field) for domain in (before, after))
        assert one.tobytes() == two.tobytes()


@given(HISTORIES, st.randoms(use_true_random=False))
def test_splits_against_slices_of_lists(histories, random):
    domain = of(histories)
    index = {key: n for n, key in enumerate(domain.items["key"])}
    for name, cut in (("train", 3), ("validation", 2), ("test", 1)):
        split = domain.split(name)
        records = {}
        for e, user in enumerate(split.users):
            records[domain.user_keys[user]] = [*history_of(split, e), split.targets[e]]
        expected = {}
        for u, history in enumerate(histories):
            if len(history) >= 3:
                expected[f"u{u}"] = [index[i] for i in history[: len(history) - cut + 1]]
            elif name == "train":
                expected[f"u{u}"] = [index[i] for i in history]
        assert records == expected
        assert (np.diff(split.users) > 0).all()


@given(HISTORIES, st.randoms(use_true_random=False))
def test_the_order_of_the_file_does_not_matter_where_times_differ(histories, random):
    rows = [(f"u{u}", i, t) for u, h in enumerate(histories) for t, i in enumerate(h)]
    shuffled = random.sample(rows, len(rows))
    frame = pd.DataFrame(shuffled, columns=["user", "item", "timestamp"])
    frame["timestamp"] = frame["timestamp"].astype("Int64")
    items = pd.DataFrame({"key": ITEMS, "title": ITEMS, "brand": "", "categories": ""})
    one, two = of(histories), assemble(RawDomain(frame, items), "d")
    np.testing.assert_array_equal(one.events, two.events)
    np.testing.assert_array_equal(one.offsets, two.offsets)
    assert one.user_keys.tolist() == two.user_keys.tolist()


@pytest.mark.parametrize(("bought", "known"), [("007", "7"), ("7", "007"), ("a7", "A7")])
def test_items_under_another_spelling_in_the_table_are_refused(raw, bought, known):
    events = [("u", key, time) for time, key in enumerate([bought, "x", "y"])]
    with pytest.raises(UserError, match=f"1 of the items bought .* as '{bought}' as '{known}'"):
        assemble(raw(events, [(known, "T"), ("x", "X"), ("y", "Y")]), "d")
    # Both spellings are bought: they are two items.
    both = [*events, ("u", known, 9)]
    assert assemble(raw(both, [(known, "T"), ("x", "X"), ("y", "Y")]), "d").num_items == 4
