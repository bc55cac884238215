"""Metrics by group of targets, and differences between runs, against counting by hand."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from recalign.domains import Domain
from recalign.evaluation.outcomes import Ranks
from recalign.runs.report import write
from recalign.runs.report.groups import by_group, differences
from recalign.runs.report.subject import gather
from tests.runs.folders import write_run

# Item 0 has most train events; 9 has none. Users end on validation and test targets.
HISTORIES = [[0, 1, 2, 0], [0, 3, 2, 9], [0, 4, 2, 1], [0, 5, 2, 9], [1, 0, 2, 3], [0, 6, 2, 4]]


@pytest.fixture
def domain():
    table = pd.DataFrame({"key": [f"k{i}" for i in range(10)], "title": "A toy"})
    offsets = np.cumsum([0, *map(len, HISTORIES)])
    return Domain("shop", table, offsets, np.concatenate(HISTORIES).astype(np.int32))


def test_targets_are_grouped_by_their_train_events(domain):
    users = np.arange(6, dtype=np.int32)
    ranks = Ranks(users, np.array([1, 0, 5, 3, 0, 30], np.int32), depth=20)
    found = {
        group.split(",")[0]: (count, row)
        for group, count, row in by_group(domain, "test", {"full": ranks, "rating": object()})
    }
    # The head are items 0 and 1, targets of users 0 and 2; 9 is that of users 1 and 3.
    assert {group: count for group, (count, _) in found.items()} == {
        "head": 2,
        "tail": 2,
        "cold": 2,
    }
    hits = {group: row["full/hr@5"] for group, (_, row) in found.items()}
    assert hits == {"head": 1.0, "tail": 0.0, "cold": 0.5}
    _, row = found["cold"]
    assert row["full/hr@5/low"] <= 0.5 <= row["full/hr@5/high"]


def test_users_that_were_left_out_do_not_shift_the_others(domain):
    ranks = Ranks(np.array([0, 3], np.int32), np.array([1, 0], np.int32), depth=20)
    found = {g.split(",")[0]: row for g, _, row in by_group(domain, "test", {"full": ranks})}
    assert {group: row["full/hr@1"] for group, row in found.items()} == {"head": 1.0, "cold": 0.0}


@pytest.fixture
def two(tmp_path):
    """Two runs on the same eight users: the other one has each target a place higher."""
    for name, ranks in (("one", [2, 2, 2, 2, 6, 6, 0, 0]), ("two", [1, 1, 1, 1, 5, 5, 0, 0])):
        directory = write_run(tmp_path / name)
        outcomes = {"full": Ranks(np.arange(8), np.array(ranks), depth=20)}
        metrics = directory.measured(20, "test")
        directory.record(20, "test", metrics, {"shop_retrieval": ("shop sha256 bb", outcomes)})
    return [tmp_path / "one", tmp_path / "two"]


def test_what_a_run_is_ahead_by(two):
    [(task, split, name, row)] = differences(gather(two))
    assert (task, split, name) == ("shop_retrieval", "test", "two")
    assert row["full/hr@1"] == pytest.approx(0.5)
    assert row["full/hr@5"] == pytest.approx(0.25)
    assert row["full/hr@10"] == row["full/hr@10/low"] == row["full/hr@10/high"] == 0
    assert row["full/hr@1/low"] < 0.5 < row["full/hr@1/high"]


def test_differences_stand_on_the_page(two, tmp_path):
    assert write(two, tmp_path / "report.html") == []
    text = (tmp_path / "report.html").read_text()
    assert "By what each is ahead of one" in text
    assert "+0.5000" in text
    assert "<caption>shop_retrieval, test, full</caption>" in text


def test_what_cannot_be_compared_is_not(two):
    one, other = gather(two)
    [(_, outcomes)] = other.outcomes["test"].values()
    ranks = dataclasses.replace(outcomes["full"], users=np.arange(1, 9))
    for changed in (
        ("another content", outcomes),
        ("shop sha256 bb", {"full": ranks}),
        ("shop sha256 bb", {"cand100": outcomes["full"]}),
    ):
        theirs = dataclasses.replace(other, outcomes={"test": {"shop_retrieval": changed}})
        assert [row for *_, row in differences([one, theirs]) if row] == []


def test_outcomes_that_are_broken_are_told(two, tmp_path):
    [file] = (two[0] / "outcomes").iterdir()
    file.write_bytes(b"PK nonsense")
    [problem] = write(two, tmp_path / "report.html")
    assert "holds no outcomes" in problem
