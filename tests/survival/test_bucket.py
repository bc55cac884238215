"""A run in a bucket that was killed amid a checkpoint goes on, and ends as one on local disk."""

import subprocess
import sys
import threading

import pytest

from recalign.files import fetch, locate
from recalign.runs import lock
from recalign.runs.inspection import inspect
from tests.buckets import cutting, stammering
from tests.commands import run
from tests.survival.running import PATIENCE, assert_same_states, position

FOLDER = "gs://bucket/runs/shop"
CUT_OFF = "runs/shop/checkpoints/12/"


@pytest.fixture
def killed(recipe, bucket, tmp_path):
    """What training in the bucket takes, killed amid its second checkpoint."""
    recipe = recipe.but("--gin.CHECKPOINT_PERIOD=6", f"--gin.MODEL_DIR={FOLDER}")
    command = [sys.executable, "-c", recipe.program, "train", *recipe.arguments]
    arrived = threading.Event()

    def hold(request):
        """Has the checkpoint wait for what commits it, until the process is gone."""
        if request.object == f"{CUT_OFF}commit_success.txt":
            arrived.set()
            process.wait()
        return False

    with (tmp_path / "log").open("w") as log, bucket.failing(hold), bucket.failing(cutting(3)):
        process = subprocess.Popen(command, stdout=log, stderr=log)
        assert arrived.wait(PATIENCE), (tmp_path / "log").read_text()
        process.kill()
        process.wait()
    return recipe.arguments


def test_a_run_that_was_killed_ends_as_one_on_local_disk(
    killed, whole, bucket, tmp_path, monkeypatch, caplog
):
    assert bucket.names(CUT_OFF)
    found = inspect(locate(FOLDER), hashes=True)
    assert ([c.step for c in found.checkpoints], found.problems) == ([6], [])
    assert found.state.startswith("in training by process ")  # as far as anyone can tell
    monkeypatch.setattr(lock, "LEASE", 3.0)
    monkeypatch.setattr(lock, "BEAT", 0.5)
    with bucket.failing(stammering(13)):
        table = run("train", *killed)
    assert "trains here, or was killed: waiting for a sign of life" in caplog.text
    assert "resumed at step 6" in caplog.text
    fetch(locate(FOLDER), tmp_path / "copy")
    assert_same_states(tmp_path / "copy", whole, 24)
    assert position(tmp_path / "copy", 24) == position(whole, 24)
    for name in ("metrics.jsonl", "metrics.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (whole / name).read_bytes(), name
    found = inspect(locate(FOLDER), hashes=True)
    assert (found.state, found.step, found.problems) == ("ended", 24, [])
    assert inspect(tmp_path / "copy", hashes=True).problems == []
    assert run("eval", "--model_dir", FOLDER) == table
    page = tmp_path / "page.html"
    run("report", FOLDER, tmp_path / "copy", "--output", page)
    assert page.read_text().count("<svg") > 2
    assert "runs/shop/report.html" in bucket.names("runs/shop/report")
    assert not [name for name in bucket.names() if "draft" in name or "partial" in name]
