"""SIGTERM to the command, alone and as one of two processes that train as one."""

import dataclasses
import functools
import json
import shutil
import time

import numpy as np
import pytest

from tests.survival.running import (
    AGAIN,
    WITHOUT_TENSORFLOW,
    assert_same_runs,
    assert_same_states,
    free_port,
    steps,
)

# Safe points are told and take a while: one before the first step, one after the last, and three in
# the final report.
SLOW = WITHOUT_TENSORFLOW.replace(
    "main()",
    """
import time
from recalign.engine import preemption
point = preemption.safe_point
preemption.safe_point = lambda: (print("safe point", flush=True), time.sleep(2), point())
main()
""",
)

# A signal takes a while to reach all processes, about a second: as long as they are slow, there are
# steps left.
PACED = WITHOUT_TENSORFLOW.replace(
    "main()",
    """
import time
from recalign.engine import preemption
arrived = preemption.has_arrived
preemption.has_arrived = lambda: (time.sleep(1), arrived())[1]
main()
""",
)


def wait_for_report(process):
    process.wait_for(lambda: process.said.count("safe point") == 3)


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


def test_sigterm_before_the_first_step_ends_with_code_75_too(live, tmp_path):
    """While modules are imported, and while examples are built."""
    at_once = live.start(tmp_path / "at_once")
    at_once.wait_until_it_listens()
    at_once.terminate()
    building = live.start(tmp_path / "building")
    building.wait_for((tmp_path / "building/.lock").exists)
    building.terminate()
    for process in (at_once, building):
        said = process.end(AGAIN)
        assert "Traceback" not in said
        assert "started from" not in said


def test_sigterm_during_the_final_report_ends_with_code_75_too(recipe, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    process = dataclasses.replace(recipe, program=SLOW).start(tmp_path / "run")
    wait_for_report(process)
    process.terminate()
    assert "Traceback" not in process.end(AGAIN)
    recipe.finish(tmp_path / "run")
    assert_same_runs(tmp_path / "run", whole)


@pytest.fixture(scope="module")
def two(recipe):
    """Starts the recipe as two processes of two devices each."""

    def start(folder, program=WITHOUT_TENSORFLOW):
        address = f"127.0.0.1:{free_port()}"
        parts = [
            dataclasses.replace(recipe, program=program).but(
                "--multiprocess",
                f"--coordinator_address={address}",
                "--process_count=2",
                f"--process_index={index}",
            )
            for index in range(2)
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JAX_NUM_CPU_DEVICES", "2")
            return [part.start(folder) for part in parts]

    return start


@pytest.fixture(scope="module")
def undisturbed(two, tmp_path_factory):
    """The folder of a run of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    for process in two(folder):
        process.end()
    return folder


# Two devices add up in another order than one.
near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one_does_and_stop_at_the_same_step(
    two, undisturbed, whole, tmp_path
):
    assert_same_states(undisturbed, whole, 24, near)
    assert metrics(undisturbed) == metrics(whole)
    stopped = two(tmp_path / "run", PACED)
    stopped[0].wait_for(lambda: 4 in steps(tmp_path / "run"))
    stopped[1].terminate()
    for process in stopped:
        assert "Traceback" not in process.end(AGAIN)
    assert 4 <= steps(tmp_path / "run")[-1] < 24
    for process in two(tmp_path / "run"):
        process.end()
    assert_same_runs(tmp_path / "run", undisturbed)


def test_two_processes_end_together_before_the_first_step_and_in_the_report(
    two, undisturbed, tmp_path
):
    early = two(tmp_path / "early", SLOW)
    early[0].wait_for((tmp_path / "early/.lock").exists)
    early[1].terminate()
    shutil.copytree(undisturbed, tmp_path / "late")
    late = two(tmp_path / "late", SLOW)
    wait_for_report(late[0])
    late[1].terminate()
    for process in (*early, *late):
        assert "Traceback" not in process.end(AGAIN)
    assert steps(tmp_path / "early") in ([], [1], [2])
    for process in two(tmp_path / "late"):
        process.end()
    assert_same_runs(tmp_path / "late", undisturbed)
