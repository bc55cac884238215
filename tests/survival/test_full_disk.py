"""A disk that is really full: said in one message, and what was there before is whole."""

import shutil
import subprocess
import sys

import pytest

from tests.survival.running import WITH_TENSORFLOW, assert_same_states, steps


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=5000k", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_really_full_is_said_and_earlier_checkpoints_are_whole(
    recipe, whole, small_disk, tmp_path
):
    keep_all = recipe.but("--gin.Run.checkpoints_to_keep=None", "--gin.CHECKPOINT_PERIOD=1")
    said = keep_all.finish(small_disk, code=2)  # what it says is written beside the disk, not on it
    assert "the disk is full" in said
    assert "Traceback" not in said
    left = steps(small_disk)
    assert left
    shutil.copytree(small_disk, tmp_path / "run")
    assert f"resumed at step {left[-1]}" in keep_all.finish(tmp_path / "run")
    assert_same_states(tmp_path / "run", whole, 24)


def test_a_domain_that_does_not_fit_leaves_nothing(small_disk):
    (small_disk / "ballast").write_bytes(bytes(4_950_000))
    done = subprocess.run(
        [sys.executable, "-c", WITH_TENSORFLOW, "prepare", "toyshop", f"--data_dir={small_disk}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
