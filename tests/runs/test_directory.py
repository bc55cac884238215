"""What a run remembers of its evaluations."""

import contextlib
import json
import math
import shutil

import numpy as np
import pytest

from recalign.domains import storage
from recalign.errors import UserError
from recalign.evaluation.outcomes import Ranks
from recalign.runs.directory import RunDirectory
from recalign.runs.lock import lock_folder
from tests.runs.folders import write_run


@pytest.fixture
def directory(tmp_path):
    found = RunDirectory(tmp_path)
    for step, hits, rmse in ((10, 0.1, 1.3), (20, 0.3, 0.9), (30, 0.3, 0.8), (40, 0.2, 1.0)):
        row = {
            "shop_retrieval/validation/full/hr@10": hits,
            "shop_rating/validation/rating/rmse": rmse,
        }
        found.record(step, "validation", row)
    # Test decides nothing.
    found.record(40, "test", {"shop_retrieval/test/full/hr@10": 0.9})
    return found


@pytest.mark.parametrize(
    ("metric", "step"),
    [
        ("full/hr@10", 20),
        ("shop_retrieval/validation/full/hr@10", 20),
        ("rating/rmse", 30),
        ("hr@1", None),
        ("full/ndcg@10", None),
        (None, None),
    ],
)
def test_the_best_step_is_the_first_of_the_best_on_validation(directory, metric, step):
    assert directory.best_step(metric) == step


@pytest.fixture
def of_two_domains(tmp_path):
    found = RunDirectory(tmp_path)
    for step, one, other in ((10, 0.5, 0.1), (20, 0.3, 0.4), (30, 0.1, 0.5)):
        row = {
            "one_retrieval/validation/full/hr@10": one,
            "two_retrieval/validation/full/hr@10": other,
            "two_retrieval/validation/full_unseen/hr@10": 1 - other,
            "two_retrieval/validation/full/invalid_rate": other,
        }
        found.record(step, "validation", row)
    return found


@pytest.mark.parametrize(
    ("metric", "step"),
    [
        ("full/hr@10", 20),
        ("one_retrieval/validation/full/hr@10", 10),
        ("two_retrieval/validation/full/hr@10", 30),
        ("full_unseen/hr@10", 10),
        ("full/invalid_rate", 10),
        ("hr@10", None),  # of which protocol?
    ],
)
def test_of_two_domains_the_mean_decides_unless_one_is_named(of_two_domains, metric, step):
    assert of_two_domains.best_step(metric) == step


def test_steps_that_are_made_again_are_forgotten(directory):
    directory.forget_after(15)
    assert directory.best_step("full/hr@10") == 10
    assert directory.is_evaluated(10, ["shop_retrieval"])
    assert not directory.is_evaluated(20, ["shop_retrieval"])


@pytest.mark.parametrize(
    ("metric", "missed"),
    [
        ("full/hr@10", False),
        ("shop_retrieval/validation/full/hr@10", False),
        ("full/hr@11", True),  # of that protocol all is measured
        ("cand100/hr@10", False),  # ranking has not been evaluated yet
        ("cand100/hr@11", False),
        ("shop_ranking/validation/cand100/hr@10", False),
        ("shop_rating/validation/cand100/hr@10", True),
        ("other_ranking/validation/cand100/hr@10", True),
        ("shop_retrieval/test/full/hr@10", True),
    ],
)
def test_what_is_measured_is_known_once_its_task_is_evaluated(directory, metric, missed):
    tasks = ["shop_retrieval", "shop_rating", "shop_ranking"]
    assert directory.is_missed(metric, tasks) == missed
    assert directory.is_missed("cand100/hr@10", tasks[:2])
    directory.record(50, "validation", {"shop_ranking/validation/cand100/hr@10": math.nan})
    assert not directory.is_missed("cand100/hr@10", tasks)
    assert directory.is_missed("cand100/hr@11", tasks)


def test_the_best_of_some_steps(directory):
    assert directory.best_step("full/hr@10", [30, 40]) == 30
    assert directory.best_step("full/hr@10", [50]) is None


def test_a_step_is_evaluated_once_all_tasks_are(directory):
    assert directory.is_evaluated(10, ["shop_retrieval"])
    assert not directory.is_evaluated(10, ["shop_retrieval", "shop_ranking"])


def test_an_evaluation_on_more_examples_than_training_takes_chooses_nothing(tmp_path):
    name, found = "shop_retrieval/validation/full/hr@10", RunDirectory(tmp_path, eval_examples=20)
    for step, hits in ((500, 0.080), (1000, 0.085), (1500, 0.084)):
        found.record(step, "validation", {name: hits}, limit=20)
    for step, hits in ((1000, 0.079), (1500, 0.9), (2000, 0.95)):
        found.record(step, "validation", {name: hits})  # of all
    assert found.best_step("full/hr@10") == 1000
    assert found.metrics_of(1000, "validation") == {name: 0.085}
    assert found.evaluations_since_best("full/hr@10") == 1
    assert found.is_evaluated(1500, ["shop_retrieval"])
    assert not found.is_evaluated(2000, ["shop_retrieval"])
    found.record(1500, "validation", {name: 0.086}, limit=20)
    assert found.best_step("full/hr@10") == 1500


def test_what_all_of_validation_came_to_stands_beside_what_a_part_did(tmp_path):
    found = RunDirectory(tmp_path, eval_examples=2)
    for limit, size in ((2, 2), (None, 5)):
        part = {"full": Ranks(np.arange(size), np.arange(size), 20)}
        found.record(10, "validation", {}, {"shop_retrieval": ("shop", part)}, limit)
    for most, size in ((False, 2), (True, 5)):
        [(_, outcomes)] = found.outcomes(10, "validation", most).values()
        assert len(outcomes["full"].users) == size
    assert found.steps_with_outcomes("validation") == [10]
    found.forget_after(5)
    assert found.steps_with_outcomes("validation") == []


def test_evaluations_of_old_runs_are_those_of_training(tmp_path):
    """They do not tell of how many examples they are."""
    name, found = "shop_retrieval/validation/full/hr@10", RunDirectory(tmp_path, eval_examples=20)
    old = {"step": 10, "split": "validation", name: 0.3}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(old) + "\n")
    found.record(10, "validation", {name: 0.1})
    found.record(20, "validation", {name: 0.2}, limit=20)
    assert found.best_step("full/hr@10") == 10
    assert found.metrics_of(10, "validation") == {name: 0.3}


@pytest.mark.parametrize(
    ("metric", "waited"), [("full/hr@10", 2), ("rating/rmse", 1), ("full/ndcg@10", 0), (None, 0)]
)
def test_evaluations_that_do_not_improve_are_counted(directory, metric, waited):
    """An equal one is none that improves."""
    assert directory.evaluations_since_best(metric) == waited


def test_what_is_no_number_is_not_the_best(directory):
    directory.record(50, "validation", {"shop_retrieval/validation/full/hr@10": math.nan})
    assert directory.best_step("full/hr@10") == 20
    assert directory.metrics_of(50, "validation") == {"shop_retrieval/validation/full/hr@10": None}


def test_seconds_add_up_over_calls(directory):
    assert directory.seconds(10) == 0
    directory.record_seconds(10, 1.5)
    directory.record_seconds(20, 4.0)
    assert [directory.seconds(step) for step in (9, 10, 15, 20, 30)] == [0, 1.5, 1.5, 4, 4]
    directory.record_seconds(15, 3.0)  # a run that went back to step 10
    assert [directory.seconds(step) for step in (14, 15, 20)] == [1.5, 3, 3]


@pytest.mark.parametrize("ended", [True, False])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(tmp_path, ended):
    directory = write_run(tmp_path / "run", ended)
    directory.check_resumable()
    shutil.rmtree(directory.path / "checkpoints")
    reached = "step 40" if ended else "step 20"
    with pytest.raises(
        UserError, match=f"came to {reached}, and .*checkpoints holds no checkpoint"
    ):
        directory.check_resumable()
    (directory.path / "checkpoints").mkdir()
    killed_amid_its_first = contextlib.nullcontext()
    with pytest.raises(UserError, match="came to") if ended else killed_amid_its_first:
        directory.check_resumable()


def test_a_run_does_not_begin_in_the_folder_of_a_domain(tmp_path):
    RunDirectory(tmp_path).check_own()
    storage.write_statistics({"recalign_version": "0.1.0"}, tmp_path)
    with pytest.raises(UserError, match="holds a prepared domain: name a folder of its own"):
        RunDirectory(tmp_path).check_own()
    (tmp_path / "config.gin").touch()  # of a run that an earlier version began there
    RunDirectory(tmp_path).check_own()


@pytest.mark.parametrize("name", ["result.json", "seconds.json"])
def test_what_an_earlier_call_left_broken_is_found_out_before_any_step(tmp_path, name):
    directory = write_run(tmp_path / "run")
    (directory.path / name).write_text('{"version": "0.1')
    with pytest.raises(UserError, match=rf"{name}.*remove it"):
        directory.check_resumable()


@pytest.mark.parametrize("there", ["file", "file/run"])
def test_a_file_in_the_way_of_a_run_is_named(tmp_path, there):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"MODEL_DIR is .*, where no run can be written"),
        lock_folder(tmp_path / there),
    ):
        pass


def test_a_configuration_that_is_damaged_is_no_traceback(tmp_path):
    (tmp_path / "config.gin").write_text("A = [\n")
    with pytest.raises(UserError, match="configuration: "):
        RunDirectory(tmp_path).check_config("A = 1\n")


def test_a_configuration_that_is_none_is_named(tmp_path):
    (tmp_path / "config.gin").write_text("A = 1\nno gin at all\n")
    with pytest.raises(UserError, match=r"config\.gin, line 2"):
        RunDirectory(tmp_path).check_config("A = 1\n")
