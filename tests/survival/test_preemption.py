"""SIGTERM to the command, alone and as one of two processes that train as one."""

import functools
import json
import time

import numpy as np
import pytest

from tests.survival.running import (
    AGAIN,
    assert_same_runs,
    assert_same_states,
    free_port,
    steps,
)


def test_sigterm_ends_with_code_75_and_a_checkpoint_and_the_run_goes_on(recipe, whole, tmp_path):
    # Nothing would be saved by itself before the end.
    lazy = recipe.but("--gin.CHECKPOINT_PERIOD=1000", "--gin.EVAL_PERIOD=1000")
    process = lazy.start(tmp_path / "run")
    process.wait_until_trains()
    process.terminate()
    begin = time.monotonic()
    said = process.end(AGAIN)
    assert time.monotonic() - begin < 30  # of which most is compiling
    assert "call the same command again" in said
    assert "Traceback" not in said
    [step] = steps(tmp_path / "run")
    assert 0 < step < 24
    assert f"resumed at step {step}" in lazy.finish(tmp_path / "run")
    assert_same_states(tmp_path / "run", whole, 24)


@pytest.fixture
def two(recipe, tmp_path):
    """Starts the recipe as two processes."""

    def start(folder):
        address = f"127.0.0.1:{free_port()}"
        return [
            recipe.but(
                "--multiprocess",
                f"--coordinator_address={address}",
                "--process_count=2",
                f"--process_index={index}",
            ).start(folder)
            for index in range(2)
        ]

    return start


# Two devices add up in another order than one.
near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one_does_and_stop_at_the_same_step(two, whole, tmp_path):
    undisturbed = two(tmp_path / "undisturbed")
    for process in undisturbed:
        process.end()
    assert_same_states(tmp_path / "undisturbed", whole, 24, near)
    assert metrics(tmp_path / "undisturbed") == metrics(whole)
    stopped = two(tmp_path / "run")
    stopped[0].wait_for(lambda: 4 in steps(tmp_path / "run"))
    stopped[1].terminate()
    for process in stopped:
        assert "Traceback" not in process.end(AGAIN)
    assert 4 <= steps(tmp_path / "run")[-1] < 24
    for process in two(tmp_path / "run"):
        process.end()
    assert_same_runs(tmp_path / "run", tmp_path / "undisturbed")
