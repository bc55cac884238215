"""One hash of a domain's values: the same for the same, another for another, whatever the bytes."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign import domains
from recalign.domains import storage
from recalign.domains.assemble import assemble
from recalign.domains.digest import digest
from recalign.domains.raw import RawDomain


def save(domain, root):
    """Writes a domain as `prepare` does, and returns the folder."""
    folder = root / domain.name
    folder.mkdir(parents=True)
    statistics = {"recalign_version": "0", "users": domain.num_users}
    storage.write(dataclasses.replace(domain, statistics=statistics), folder)
    return folder


def exchange(array, one, two):
    array = array.copy()
    array[[one, two]] = array[[two, one]]
    return array


# Of the domain `small`: ann has the events 0 to 4, bob 5 to 7, cid 8.
CHANGES = {
    "two users' events": lambda d: {"events": exchange(d.events, 1, 6)},
    "the order of a user's events": lambda d: {"events": exchange(d.events, 0, 1)},
    "a rating": lambda d: {"ratings": np.where(np.arange(9) == 2, 5, d.ratings).astype("f4")},
    "a missing rating": lambda d: {"ratings": np.where(np.arange(9) == 2, np.nan, d.ratings)},
    "no ratings": lambda d: {"ratings": None},
    "a time": lambda d: {"timestamps": d.timestamps + (np.arange(9) == 8)},
    "no times": lambda d: {"timestamps": None},
    "the draw": lambda d: {"seed": 1},
    "whose events": lambda d: {"offsets": np.array([0, 4, 8, 9])},
    "a user's id": lambda d: {"keys": np.array(["ann", "bob", "dan"], object)},
    "a title": lambda d: {"items": d.items.assign(title=["X", *d.items["title"][1:]])},
    "where a title ends": lambda d: {"items": d.items.assign(title="a", brand="bc")},
    "and begins": lambda d: {"items": d.items.assign(title="ab", brand="c")},
    "the order of items": lambda d: {"items": d.items.iloc[::-1].reset_index(drop=True)},
}


def test_every_change_of_a_value_changes_it(small):
    changed = {
        name: digest(dataclasses.replace(small, **of(small))) for name, of in CHANGES.items()
    }
    assert len({digest(small), *changed.values()}) == 1 + len(CHANGES)


def test_a_column_without_a_role_changes_nothing(small):
    priced = dataclasses.replace(small, items=small.items.assign(price=1.5))
    assert digest(priced) == digest(small)


@pytest.mark.parametrize("change", [None, "a missing rating", "no ratings", "no times"])
def test_it_is_the_same_in_memory_and_from_disk(small, tmp_path, change):
    domain = dataclasses.replace(small, **(CHANGES[change](small) if change else {}))
    save(domain, tmp_path)
    assert domains.fingerprint("small", tmp_path) == digest(domain)
    assert digest(domains.load("small", tmp_path)) == digest(domain)
    assert domain.seed == 0


def test_it_is_read_without_the_domain_and_computed_where_it_is_absent(small, tmp_path):
    folder = save(small, tmp_path)
    expected = digest(small)
    statistics = json.loads((folder / "statistics.json").read_text())
    assert statistics.pop("fingerprint") == expected
    (folder / "statistics.json").write_text(json.dumps(statistics))
    assert domains.fingerprint("small", tmp_path) == expected
    (folder / "statistics.json").write_text(json.dumps(statistics | {"fingerprint": expected}))
    (folder / "interactions.parquet").unlink()
    assert domains.fingerprint("small", tmp_path) == expected


def test_the_bytes_of_the_files_have_no_say(small, tmp_path):
    folder = save(small, tmp_path)
    for name in ("items", "interactions", "users"):
        table = pq.read_table(folder / f"{name}.parquet")
        pq.write_table(table, folder / f"{name}.parquet", compression="gzip", version="1.0")
    statistics = json.loads((folder / "statistics.json").read_text())
    del statistics["fingerprint"]
    (folder / "statistics.json").write_text(json.dumps(statistics))
    assert domains.fingerprint("small", tmp_path) == digest(small)


def test_it_is_the_same_in_every_process(small, tmp_path):
    """As it was when it was first written, so that an old checkpoint still knows its domain."""
    save(small, tmp_path)
    program = (
        "import sys; from recalign import domains; from recalign.domains.digest import digest\n"
        "print(digest(domains.load('small', sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout.strip() == digest(small) == "sha256 f364ff78a10ca11e", done.stderr


EVENTS = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from("abcd"), st.integers(0, 3)),
    min_size=3,
    max_size=12,
)


def of(events):
    frame = pd.DataFrame(events, columns=["user", "item", "timestamp"]).astype(
        {"timestamp": "Int64"}
    )
    items = pd.DataFrame({"key": list("abcd"), "title": "", "brand": "", "categories": ""})
    return assemble(RawDomain(frame, items), "d")


@given(EVENTS, EVENTS)
def test_two_domains_have_one_hash_where_they_are_one(one, two):
    def values(domain):
        return (
            domain.user_keys.tolist(),
            domain.offsets.tolist(),
            domain.events.tolist(),
            domain.timestamps.tolist(),
        )

    if any(pd.Series([u for u, *_ in events]).value_counts().max() < 3 for events in (one, two)):
        return
    first, second = of(one), of(two)
    assert (digest(first) == digest(second)) == (values(first) == values(second))
