"""What a folder says of its run, whole or not, and that looking changes nothing."""

import shlex
import shutil
import subprocess
import sys
import threading

import pytest

from recalign.errors import UserError
from recalign.runs import calls
from recalign.runs.inspection import inspect
from recalign.runs.lock import find_holder, lock_folder
from tests.commands import run
from tests.runs.folders import PROVENANCE, snapshot, write_run


@pytest.fixture
def directory(tmp_path):
    return write_run(tmp_path / "run")


def test_a_run_that_ended(directory):
    found = inspect(directory.path)
    assert (found.state, found.step, found.best_step, found.seconds) == ("ended", 40, 20, 20.0)
    assert found.provenance == PROVENANCE
    assert found.origin == "0.1.0, commit c0ffee"
    assert [c.step for c in found.checkpoints] == [10, 20, 30, 40]
    files = (directory.path / "checkpoints" / "10").rglob("*")
    assert found.checkpoints[0].size == sum(f.stat().st_size for f in files if f.is_file())
    assert found.problems == []
    assert found.tables()["shop_ranking"] == {"recalign": {"cand100/hr@10": pytest.approx(0.56)}}


def test_a_run_without_its_checkpoints_took_as_long(directory):
    shutil.rmtree(directory.path / "checkpoints")
    found = inspect(directory.path)
    assert (found.state, found.step, found.checkpoints, found.seconds) == ("ended", 40, [], 20.0)


def test_it_is_told_as_text(directory):
    calls.record(directory.path, 0, PROVENANCE, "1 x cpu")
    text = run("inspect", directory.path)
    for told in (
        "shop_aligned, batches of 4, seed 3, from scratch",
        "domain shop  content sha256 bb",
        "40 of 40 in 20 s",
        "step 20 by full/hr@10, on validation",
        "ended",
        "test, step 20",
        "| recalign | 0.2800 |  0.1400 |",
    ):
        assert told in text
    assert "whole        yes" in text


def test_a_run_that_was_killed(tmp_path):
    directory = write_run(tmp_path / "run", ended=False)
    with (directory.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "sp')  # as it was being written
    found = inspect(directory.path)
    assert (found.state, found.step) == ("stopped before its end", 20)
    [problem] = found.problems
    assert "metrics.jsonl ends within a line, which is passed over" in problem
    with lock_folder(directory.path):  # it may be written at this moment
        assert inspect(directory.path).problems == []


def test_a_run_that_was_killed_before_its_first_checkpoint(tmp_path):
    (tmp_path / "config.gin").write_text("A = 1\n")
    calls.record(tmp_path, 0, PROVENANCE, "1 x cpu")
    assert inspect(tmp_path).state == "stopped before its end"


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("/usr/bin/recalign", "recalign train --gin.A='[1, 2]'"),
        ("/venv/lib/recalign/__main__.py", "python -m recalign train --gin.A='[1, 2]'"),
    ],
)
def test_a_command_is_told_as_it_can_be_typed_again(directory, monkeypatch, program, told):
    monkeypatch.setattr(sys, "argv", [program, "train", "--gin.A=[1, 2]"])
    calls.record(directory.path, 0, PROVENANCE, "1 x cpu")
    assert shlex.split(inspect(directory.path).command) == shlex.split(told)


def test_a_run_that_has_hardly_begun(tmp_path):
    (tmp_path / "config.gin").write_text("A = 1\n")
    found = inspect(tmp_path)
    assert (found.state, found.step, found.best_step, found.metrics) == ("not begun", 0, None, {})
    assert "no metrics yet" in str(found)


def test_a_checkpoint_that_training_removes_meanwhile_is_not_damaged(directory, monkeypatch):
    first = directory.path / "checkpoints" / "10"
    walk = type(first).rglob

    def removed(folder, pattern):
        found = [*walk(folder, pattern)]
        if folder == first:
            shutil.rmtree(first)
        return found

    monkeypatch.setattr(type(first), "rglob", removed)
    found = inspect(directory.path)
    assert [c.step for c in found.checkpoints] == [20, 30, 40]
    assert found.problems == []


def test_who_trains_is_told_and_is_not_hindered_by_who_looks(directory):
    assert inspect(directory.path).holder is None
    with lock_folder(directory.path):
        found = inspect(directory.path)
        assert found.holder.startswith("process ")
        assert found.state.startswith("in training by process ")
    assert inspect(directory.path).holder is None
    looks = threading.Event()

    def look():
        while not looks.is_set():
            find_holder(directory.path)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(20):
            with lock_folder(directory.path):
                pass
    finally:
        looks.set()
        thread.join()


def test_damage_is_told(directory):
    array = directory.path / "checkpoints" / "10" / "state" / "array"
    array.write_bytes(bytes(1000))
    assert inspect(directory.path).problems == []  # the sizes are right
    [problem] = inspect(directory.path, hashes=True).problems
    assert problem == "checkpoint 10 is damaged: state/array is not what was written"
    array.write_bytes(bytes(10))
    [problem] = inspect(directory.path).problems
    assert "has 10 bytes where 1000 were written" in problem


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", '{"shop_retrieval/te', "metrics.json: not JSON"),
        ("metrics.json", "[1]", "metrics.json: no metrics of a run"),
        ("metrics.jsonl", '{"step": 1\n{"step": 2}\n', "metrics.jsonl, line 1: not JSON"),
        ("metrics.jsonl", '[]\n{"step": 2}\n', "metrics.jsonl, line 1: no evaluation"),
        ("calls.jsonl", "nonsense\n", "calls.jsonl, line 1: not JSON"),
        ("result.json", "{", "result.json is no result of a run"),
        ("config.gin", "A = [", "configuration: "),
        ("seconds.json", "{", "seconds.json: no seconds by step"),
    ],
)
def test_a_broken_file_is_one_problem_and_the_rest_is_told(directory, name, content, message):
    (directory.path / name).write_text(content)
    found = inspect(directory.path)
    [problem] = found.problems
    assert message in problem
    assert len(found.checkpoints) == 4
    assert "whole        no: " in str(found)


def test_bytes_that_are_no_text_are_a_problem(directory):
    for name in ("metrics.json", "metrics.jsonl", "config.gin", "result.json"):
        (directory.path / name).write_bytes(b"\xff\xfe\x00\n")
    assert len(inspect(directory.path).problems) == 4


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no run: there is no .*config\.gin"):
        run("inspect", tmp_path)


def test_looking_changes_nothing_and_imports_nothing_that_trains(directory):
    before = snapshot(directory.path)
    program = (
        "import sys; sys.argv = ['recalign', 'inspect', sys.argv[1], '--verify']\n"
        "from recalign.cli import main\n"
        "main()\n"
        "assert not {'jax', 'tensorflow', 'orbax', 'pandas', 'pyarrow'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", program, str(directory.path)]
    subprocess.run(command, check=True, capture_output=True)
    assert snapshot(directory.path) == before
