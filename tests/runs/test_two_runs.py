"""Two runs in one process: each keeps its own configuration."""

import json

import gin
import numpy as np
import pytest

from recalign import domains
from recalign.bindings import Bindings
from recalign.engine.training.trainer import Trainer
from recalign.runs import configuration
from recalign.runs.run import load, make
from recalign.samples.registry import register_domain
from tests.commands import run
from tests.runs.test_run import SMALL


@pytest.fixture(scope="module", autouse=True)
def shop():
    run("prepare", "toyshop", "--users", 120, "--items", 60, "--overwrite")
    register_domain("toyshop")
    return domains.load("toyshop")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run that reads ids, and one that reads titles and ranks candidates instead."""
    made = {}
    for name, *options in (
        ("a", "--gin.item_texts.history_form=id", "--gin.NUM_BEAMS=10"),
        ("b", "--gin.item_texts.history_form=title", "--gin.Inference.scoring_batch_size=8"),
    ):
        made[name] = tmp_path_factory.mktemp("runs") / name
        kind = {"a": "retrieval", "b": "ranking"}[name]
        run(
            *("train", "--gin_file=toyshop.gin", *SMALL, "--gin.TRAIN_STEPS=1", *options),
            f"--gin.MIXTURE_OR_TASK_NAME=toyshop_{kind}_only",
            f"--gin.MODEL_DIR={made[name]}",
        )
    return made


def test_a_run_evaluates_its_own_task_with_its_own_bindings(folders):
    before = {name: json.loads((f / "metrics.json").read_text()) for name, f in folders.items()}
    a = load(str(folders["a"]))
    b = load(str(folders["b"]))
    a.evaluate("test")
    b.evaluate("test")
    for name, folder in folders.items():
        assert json.loads((folder / "metrics.json").read_text()) == before[name]


def test_a_run_is_trained_as_it_was_configured(folders, tmp_path):
    options = [s.removeprefix("--gin.") for s in SMALL]
    options += ["TRAIN_STEPS=1", "NUM_BEAMS=10", "item_texts.history_form=id"]
    options += ["MIXTURE_OR_TASK_NAME=toyshop_retrieval_only", f"MODEL_DIR={tmp_path}"]
    configuration.parse(["toyshop.gin"], options)
    a = make()
    load(str(folders["b"]))
    a.train()
    ours, theirs = (
        configuration.bindings((f / "config.gin").read_text()) for f in (tmp_path, folders["a"])
    )
    assert {k: repr(v) for k, v in ours.items() if k != "MODEL_DIR"} == {
        k: repr(v) for k, v in theirs.items() if k != "MODEL_DIR"
    }
    [validation], [of_its_own, _] = (
        [json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()]
        for f in (tmp_path, folders["a"])
    )
    assert validation == of_its_own


def test_questions_are_written_as_the_run_was_taught(folders):
    a = load(str(folders["a"]))
    load(str(folders["b"]))
    [tokens] = a.data.questions("toyshop_retrieval")([[3, 1, 4]]).inputs
    text = a.data.decode(tokens.tolist())
    [example] = a.data.examples("test", 1)
    assert "#" in text
    assert "#" in a.data.decode(example.inputs[0].tolist())
    np.testing.assert_array_equal(example.inputs[0], a.data.examples("test", 1)[0].inputs[0])


def test_bindings_come_back_with_what_was_used_of_them():
    configuration.parse(["toyshop.gin"], ["MODEL_DIR=x", "BATCH_SIZE=3"])
    first, used = Bindings.in_force(), gin.get_configurable(Trainer)
    used()
    text = configuration.operative()
    configuration.parse(["toyshop.gin"], ["MODEL_DIR=x", "BATCH_SIZE=4"])
    assert gin.query_parameter("%BATCH_SIZE") == 4
    with first.active():
        assert gin.query_parameter("%BATCH_SIZE") == 3
        assert configuration.operative() == text
    assert gin.query_parameter("%BATCH_SIZE") == 4
    assert configuration.operative() != text
