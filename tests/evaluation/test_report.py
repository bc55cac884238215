"""Tables keep protocols apart; files survive a killed run."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from recalign.errors import UserError
from recalign.evaluation import report

ROWS = {
    "model": {
        "full/hr@10": 0.06,
        "full/low/hr@10": 0.0551,
        "full/high/hr@10": 1.0,
        "full/hr@5": 0.03,
        "full/low/hr@5": 0.02,
        "full/high/hr@5": 0.04,
        "full_unseen/hr@10": 0.08,
        "full/invalid_rate": 0.5,
    },
    "popularity": {"full/hr@10": 0.02, "full_unseen/hr@10": 0.0, "full/invalid_rate": 0.25},
    "sampled": {"cand100/hr@10": 0.4, "full/coverage@10": 0.5},
    "ahead": {"full/hr@10": 0.04, "full/low/hr@10": -0.0102, "full/high/hr@10": 10.05},
}


def test_tables_keep_protocols_apart_and_show_intervals():
    assert report.format_tables(ROWS, signed=["ahead"]) == (
        "full: the whole catalogue ranked\n\n"
        "|            |   hr@5 |                     hr@10 | invalid_rate | coverage@10 |\n"
        "| ---------- | -----: | ------------------------: | -----------: | ----------: |\n"
        "| model      | 0.0300 |    0.0600 [.0551, 1.0000] |       0.5000 |           - |\n"
        "| popularity |      - |                    0.0200 |       0.2500 |           - |\n"
        "| sampled    |      - |                         - |            - |      0.5000 |\n"
        "| ahead      |      - | +0.0400 [-.0102, 10.0500] |            - |           - |\n\n"
        "full_unseen: the whole catalogue ranked, items of the history removed\n\n"
        "|            |  hr@10 |\n"
        "| ---------- | -----: |\n"
        "| model      | 0.0800 |\n"
        "| popularity | 0.0000 |\n\n"
        "cand100: 1 positive among 99 sampled negatives\n\n"
        "|         |  hr@10 |\n"
        "| ------- | -----: |\n"
        "| sampled | 0.4000 |"
    )


def test_metrics_json_is_flat_and_replaced_whole(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("the last one")
    named = report.add_prefix({"full/hr@10": np.float32(0.25)}, "shop_retrieval", "test")
    report.write_metrics(path, named)
    assert json.loads(path.read_text()) == {"shop_retrieval/test/full/hr@10": 0.25}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_a_failed_write_leaves_the_last_metrics(tmp_path):
    path = tmp_path / "metrics.json"
    report.write_metrics(path, {"a": 1.0})
    with pytest.raises(TypeError):
        report.write_metrics(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1.0}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_finite_number_is_null(tmp_path, value):
    report.write_metrics(tmp_path / "metrics.json", {"a": value, "b": 1})
    report.append_metrics(tmp_path / "metrics.jsonl", 3, "test", {"a": np.float32(value)})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"a": None, "b": 1.0}
    assert report.read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 3, "split": "test", "limit": None, "a": None}
    ]


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_half_written_line_is_mended(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    report.append_metrics(path, 100, "validation", {"t/validation/full/hr@10": 0.5})
    report.append_metrics(path, 200, "validation", {"t/validation/full/hr@10": 0.6})
    path.write_bytes(path.read_bytes()[:-cut])
    first = {"step": 100, "split": "validation", "limit": None, "t/validation/full/hr@10": 0.5}
    assert report.read_metrics(path) == [first]
    report.append_metrics(path, 200, "test", {})
    assert report.read_metrics(path) == [first, {"step": 200, "split": "test", "limit": None}]
    assert path.read_bytes().endswith(b"\n")


def test_a_line_takes_the_place_of_one_on_as_many_examples(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for limit, hits in ((20, 0.5), (None, 0.4), (20, 0.6)):
        report.append_metrics(path, 100, "validation", {"t/validation/full/hr@10": hits}, limit)
    found = {r["limit"]: r["t/validation/full/hr@10"] for r in report.read_metrics(path)}
    assert found == {None: 0.4, 20: 0.6}
    assert len(report.read_metrics(path)) == 2


def test_evaluations_that_end_at_once_are_all_kept(tmp_path):
    """As of a run that trains and is evaluated meanwhile."""
    path = tmp_path / "metrics.jsonl"
    with ThreadPoolExecutor(8) as pool:
        added = [pool.submit(report.append_metrics, path, step, "test", {}) for step in range(40)]
    assert [each.exception() for each in added] == [None] * 40
    assert sorted(record["step"] for record in report.read_metrics(path)) == [*range(40)]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "split": "test"}\n{"step": \n{"step": 3, "split": "test"}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: not JSON"):
        report.read_metrics(path)
