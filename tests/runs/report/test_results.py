"""Hit rates by group, and differences between runs."""

import dataclasses
import re

import numpy as np
import pytest

from recalign.evaluation.outcomes import Ranks
from recalign.runs.report import write
from recalign.runs.report.results import differences
from recalign.runs.report.subject import gather
from tests.runs.folders import write_run


@pytest.fixture
def two(tmp_path):
    """Two runs on the same eight users: the other one has each target a place higher."""
    for name, ranks in (("one", [2, 2, 2, 2, 6, 6, 0, 0]), ("two", [1, 1, 1, 1, 5, 5, 0, 0])):
        directory = write_run(tmp_path / name)
        outcomes = {"full": Ranks(np.arange(8), np.array(ranks), depth=20)}
        metrics = directory.metrics_of(20, "test")
        directory.record(20, "test", metrics, {"shop_retrieval": ("shop sha256 bb", outcomes)})
    return [tmp_path / "one", tmp_path / "two"]


def test_what_a_run_is_ahead_by(two):
    [(task, split, name, row)] = differences(gather(two))
    assert (task, split, name) == ("shop_retrieval", "test", "two")
    assert row["full/hr@1"] == pytest.approx(0.5)
    assert row["full/hr@5"] == pytest.approx(0.25)
    assert row["full/hr@10"] == row["full/low/hr@10"] == row["full/high/hr@10"] == 0
    assert row["full/low/hr@1"] < 0.5 < row["full/high/hr@1"]


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


def test_hit_rates_by_group_have_a_table_beside_the_one_of_their_protocol(tmp_path):
    directory = write_run(tmp_path / "run")
    groups = {"examples/cold": 0, "examples/tail": 30, "examples/transition_unseen": 12}
    groups |= {"hr@10/tail": 0.125, "hr@10/transition_unseen": 0.0625}
    found = {f"shop_retrieval/test/full/{name}": value for name, value in groups.items()}
    directory.record(20, "test", directory.metrics_of(20, "test") | found)
    assert write([directory.path], tmp_path / "report.html") == []
    text = (tmp_path / "report.html").read_text()
    [body] = re.findall(
        r"full: hr@10 by what train knows of the target.*?</table>", text, re.DOTALL
    )
    assert re.findall(r">([^<]+)</th>", body) == [
        "tail, 30",
        "transition unseen, 12",
        "run, step 20",
    ]
    assert re.findall(r"<td>(.*?)</td>", body) == ["0.1250", "0.0625"]
    heads = re.findall(r'<th scope="col">(.*?)</th>', text)
    assert not [head for head in heads if "/" in head]
