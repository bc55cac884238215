"""Two runs in one process: each keeps its own configuration."""

import dataclasses
import json

import gin
import numpy as np
import pytest

from recalign import domains
from recalign.bindings import Bindings
from recalign.engine.training.trainer import Trainer
from recalign.errors import UserError
from recalign.evaluation.mixing import standardise
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
    """A run that reads ids, one that reads titles and ranks candidates, and one that retrieves."""
    made = {}
    for name, *options in (
        ("a", "--gin.item_texts.history_form=id", "--gin.NUM_BEAMS=10"),
        ("b", "--gin.item_texts.history_form=title", "--gin.Inference.scoring_batch_size=8"),
        ("c", "--gin.item_texts.history_form=title", "--gin.RANDOM_SEED=1"),
    ):
        made[name] = tmp_path_factory.mktemp("runs") / name
        kind = "ranking" if name == "b" else "retrieval"
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


def test_runs_are_added_up_each_asked_in_its_own_words(folders, shop):
    """The sum is that of both runs' own scores, of questions that each writes as it was taught."""
    a, c = (load(str(folders[name])) for name in "ac")
    split, scores = shop.split("test"), []
    for each in (a, c):
        [examples] = each.data.examples("test")
        model = each.evaluation.catalogue_model(examples)
        scores.append(model.score_all(each.restore()[1], examples.inputs))
    table = a.evaluate("test", [c]).tables["toyshop_retrieval"]
    [together] = [row for row in table if row.startswith("recalign + ")]
    label = f"{folders['c']}, step 1"
    weight = float(together.removeprefix("recalign + ").removesuffix(f" {label}"))
    for row, total in (
        (label, scores[1]),
        (together, standardise(scores[0]) + np.float32(weight) * standardise(scores[1])),
    ):
        ranks = (total >= np.take_along_axis(total, split.targets[:, None], axis=1)).sum(axis=1)
        assert table[row]["full/hr@10"] == pytest.approx(np.mean(ranks <= 10))
        assert table[row]["full/ndcg@10"] == pytest.approx(
            np.mean(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0))
        )


def test_a_run_that_cannot_be_added_is_told(folders, shop):
    a, b = (load(str(folders[name])) for name in "ab")
    with pytest.raises(UserError, match=r"--with .*/b: it retrieves by no task, and what is asked"):
        a.evaluate("test", [b])
    [examples] = a.data.examples("test", 1)
    other = dataclasses.replace(shop, statistics={"fingerprint": "another"})
    message = r"/a: it retrieves by toyshop_retrieval on toyshop .* on toyshop another: only models"
    with pytest.raises(UserError, match=message):
        a.term([dataclasses.replace(examples, domain=other)])
    more = dataclasses.replace(examples, inputs=[*examples.inputs] * 121)
    with pytest.raises(UserError, match=r"/a: it has 120 examples of test, and 121 are asked here"):
        a.term([more])


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
