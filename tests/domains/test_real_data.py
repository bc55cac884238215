"""Real domains: Beauty and Toys of Amazon 2014, Office of Amazon 2018, to the unit."""

import numpy as np
import pytest

from recalign.domains import statistics
from recalign.domains.assemble import assemble
from recalign.domains.readers import recbole

COUNTS = {"beauty": (22363, 12101, 198502), "toys": (19412, 11924, 167597)}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_and_order(shared, name):
    folder = shared / "data" / "amazon-2014" / name
    inter, item = folder / f"{name}.inter", folder / f"{name}.item"
    raw = recbole.read(inter, item)
    domain = assemble(raw, name)
    found = statistics.describe(domain)
    assert (found["users"], found["items"], found["interactions"]) == COUNTS[name]
    assert found["records_train"] == found["records_test"] == found["users"]
    assert raw.counts["items_without_metadata"] == raw.counts["items_without_interactions"] == 0
    assert domain.items["categories"].str.contains(" > ").mean() > 0.9

    # The files hold the published sequences: ordering must leave every user's events as they are.
    lines = inter.read_text().splitlines()[1:]
    sequences: dict[str, list[str]] = {}
    for line in lines:
        user, key, _ = line.split("\t")
        sequences.setdefault(user, []).append(key)
    keys = domain.items["key"].to_numpy(object)[domain.events]
    expected = np.concatenate([sequences[user] for user in domain.user_keys])
    assert (keys == expected).all()


def test_rated_office_products(shared):
    folder = shared / "data" / "amazon-2018-rated" / "office"
    domain = assemble(recbole.read(folder / "office.inter", folder / "office.item"), "office")
    assert (domain.num_users, domain.num_items, len(domain.events)) == (3231, 3317, 21290)
    assert set(np.unique(domain.ratings)) == {1, 2, 3, 4, 5}
    lines = (folder / "office.inter").read_text().splitlines()[1:]
    assert domain.ratings.sum() == sum(float(line.split("\t")[2]) for line in lines)
