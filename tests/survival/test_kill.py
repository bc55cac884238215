"""SIGKILL at random moments, and the same command again: the run ends as if nothing happened."""

import random
import time

import pytest

from tests.survival.running import assert_same_runs, partial, steps

EVAL_PERIOD = 6
AIMS = ("any", "checkpoint", "evaluation")


def wait_for_moment(process, aim, rng):
    """Waits for a random moment of training: any, amid a checkpoint, or amid an evaluation."""
    process.wait_until_trains()
    folder, newest = process.model_dir, max(steps(process.model_dir), default=0)
    if aim == "any":
        time.sleep(rng.uniform(0, 3))
    elif aim == "checkpoint":
        process.wait_for(lambda: partial(folder))
        time.sleep(rng.uniform(0, 0.03))
    else:  # a checkpoint comes before the evaluation of its step
        due = newest - newest % EVAL_PERIOD + EVAL_PERIOD
        process.wait_for(lambda: due in steps(folder))
        time.sleep(rng.uniform(0, 0.3))


def kill_and_start_again(recipe, folder, kills, seed):
    """Trains to the end, killed so many times; a run that ends before that is begun anew.

    Returns:
      The folders of the runs, and of each kill what it left: what was aimed at, the newest
      checkpoint and the half-written ones.
    """
    rng, left, runs = random.Random(seed), [], [folder / "0"]
    while len(left) < kills:
        aim = AIMS[len(left) % len(AIMS)]
        process = recipe.start(runs[-1])
        wait_for_moment(process, aim, rng)
        if process.kill():
            left.append((aim, max(steps(runs[-1]), default=0), partial(runs[-1])))
        else:
            process.end()
            runs.append(folder / str(len(runs)))
    recipe.finish(runs[-1])
    return runs, left


def test_killed_twice_a_run_ends_the_same(recipe, whole, tmp_path):
    runs, left = kill_and_start_again(recipe, tmp_path, 2, seed=1)
    assert len(left) == 2
    for folder in runs:
        assert_same_runs(folder, whole)


@pytest.mark.long
@pytest.mark.parametrize("seed", [2, 3])
def test_killed_ten_times_runs_end_the_same(recipe, whole, tmp_path, seed):
    runs, left = kill_and_start_again(recipe, tmp_path, 10, seed)
    print(*left, sep="\n")
    assert any(half_written for _, _, half_written in left)
    for folder in runs:
        assert_same_runs(folder, whole)


@pytest.mark.long
def test_a_live_pipeline_killed_four_times_ends_the_same(live, tmp_path):
    live.finish(tmp_path / "whole")
    runs, left = kill_and_start_again(live, tmp_path, 4, seed=4)
    print(*left, sep="\n")
    for folder in runs:
        assert_same_runs(folder, tmp_path / "whole", positions=False)
