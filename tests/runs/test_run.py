"""The main job from the command line: the real recipe of the toy shop, shrunk."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
from click.testing import CliRunner

from recalign import __version__ as recalign_version
from recalign import domains
from recalign.cli import recalign
from recalign.errors import UserError
from recalign.evaluation import metrics as metrics_of
from recalign.evaluation.examples import RetrievalExamples
from recalign.runs import calls, initial_state
from recalign.runs.directory import RunDirectory
from recalign.runs.inspection import inspect
from recalign.runs.result import read
from recalign.runs.run import Run, load
from recalign.samples.registry import register_domain
from recalign.serving.recommender import of_run
from tests.commands import SMALL_NETWORK, run
from tests.splits import history as history_of
from tests.splits import rated as rated_of

SMALL = [
    "--gin.TRAIN_STEPS=6",
    "--gin.EVAL_PERIOD=3",
    "--gin.CHECKPOINT_PERIOD=3",
    "--gin.EVAL_EXAMPLES=20",
    *SMALL_NETWORK,
]


@pytest.fixture(scope="module")
def shop():
    run("prepare", "toyshop", "--users", 120, "--items", 60)
    register_domain("toyshop")  # as a new process would
    return domains.load("toyshop")


@pytest.fixture(scope="module")
def trained(shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    table = run("train", "--gin_file=toyshop.gin", f"--gin.MODEL_DIR={folder}", *SMALL)
    return folder, table


def predictions(folder, task, where, step="newest"):
    output = where / f"{task}.jsonl"
    run("infer", "--model_dir", folder, "--task", task, "--output", output, "--step", step)
    return [json.loads(line) for line in output.read_text().splitlines()]


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_training_leaves_a_whole_run_behind(trained):
    folder, table = trained
    rows = [row.split("|")[1].strip() for row in table.splitlines() if "|" in row]
    # full and full_unseen, each with its groups, and cand<C>
    assert rows.count("recalign") == rows.count("popularity") == 5
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = RunDirectory(folder, 20).best_step("full/ndcg@10")
    assert [(line["step"], line["split"]) for line in lines] == [
        (3, "validation"),
        (6, "validation"),
        (best, "test"),
    ]
    head = f"test, step {best}, the best on validation by full/ndcg@10\n"
    assert table.startswith(head)
    assert [line["limit"] for line in lines] == [20, 20, None]
    assert metrics(folder) == {k: v for k, v in lines[-1].items() if "/" in k}
    for name in ("full/hr@10", "full/ndcg@20", "full/mrr@10", "full_unseen/hr@1"):
        assert 0 <= metrics(folder)[f"toyshop_retrieval/test/{name}"] <= 1
    assert {name.split("/")[0] for name in metrics(folder)} == {
        "toyshop_retrieval",
        "toyshop_ranking",
    }
    assert list(folder.glob("events.out.tfevents.*"))
    assert {p.name for p in (folder / "checkpoints").iterdir() if p.name.isdigit()} == {"3", "6"}
    found = inspect(folder)
    assert (found.state, found.step, found.best_step, found.problems) == ("ended", 6, best, [])
    [call] = found.calls
    assert (call["step"], call["provenance"]) == (0, found.provenance)
    assert {"jax", "seqio", "tensorflow"} <= call["packages"].keys()
    page = (folder / "report.html").read_text()
    for told in ("toyshop_ranking, test", "popularity", "Loss of training", "Sought: "):
        assert told in page
    assert "by what train knows of the target" in page


def test_an_earlier_checkpoint_is_evaluated_on_demand(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    run("eval", "--model_dir", folder)
    last = metrics(folder)
    run("eval", "--model_dir", folder, "--step", 3)
    first = metrics(folder)
    assert first != last
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines[-2:]] == [6, 3]
    best = RunDirectory(folder, 20).best_step("full/ndcg@10")
    run("eval", "--model_dir", folder, "--step", "best")
    assert metrics(folder) == {3: first, 6: last}[best]


def test_an_evaluation_on_all_of_validation_chooses_no_checkpoint(trained, tmp_path):
    """Training takes 20 of its 120 examples."""
    folder = shutil.copytree(trained[0], tmp_path / "run")
    before = (folder / "metrics.jsonl").read_text().splitlines()
    validation = read(folder).validation
    for step in (3, 6):
        run("eval", "--model_dir", folder, "--split", "validation", "--step", step)
    assert (folder / "metrics.jsonl").read_text().splitlines()[:-2] == before
    assert metrics(folder).keys() == validation.keys()
    run("train", "--gin_file=toyshop.gin", f"--gin.MODEL_DIR={folder}", *SMALL)
    assert read(folder).validation == validation


def test_the_best_is_one_that_is_there(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    best = read(folder).step
    shutil.rmtree(folder / "checkpoints" / str(best))
    [other] = RunDirectory(folder).checkpoints()
    assert load(str(folder), "best").restore()[0] == other


@pytest.mark.parametrize(
    ("step", "message"), [("4", r"holds no step 4: there are \[6, 3\]"), ("soon", "nor `newest`")]
)
def test_a_checkpoint_that_is_not_there_is_told(trained, step, message):
    with pytest.raises(UserError, match=message):
        run("eval", "--model_dir", trained[0], "--step", step)


def test_a_best_metric_that_is_not_measured_is_told(shop, tmp_path, caplog):
    folder = f"--gin.MODEL_DIR={tmp_path}"
    options = [*SMALL, "--gin.TRAIN_STEPS=1", "--gin.BEST_METRIC='full/ndgc@10'"]
    options += ["--gin.MIXTURE_OR_TASK_NAME=toyshop_retrieval_only"]
    run("train", "--gin_file=toyshop.gin", folder, *options)
    told = "BEST_METRIC is 'full/ndgc@10', which is not measured, so no checkpoint is kept as the "
    assert told + "best; did you mean full/ndcg@10 or " in caplog.text
    assert "/low/" not in caplog.text


def test_only_items_come_out_and_each_once(trained):
    found = metrics(trained[0])
    for protocol in ("full", "full_unseen"):
        assert found[f"toyshop_retrieval/test/{protocol}/invalid_rate"] == 0
        assert found[f"toyshop_retrieval/test/{protocol}/duplicate_rate"] == 0


def test_eval_of_the_saved_run_gives_the_same_table(trained):
    folder, table = trained
    before = metrics(folder)
    assert run("eval", "--model_dir", folder, "--split", "test", "--step", "best") == table
    assert metrics(folder) == before


def test_a_run_without_its_checkpoints_is_left_as_it_is(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    before = (folder / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match=r"came to step 6, and .* holds no checkpoint"):
        run("train", "--gin_file=toyshop.gin", f"--gin.MODEL_DIR={folder}", *SMALL)
    assert (folder / "metrics.jsonl").read_text() == before
    assert read(folder).last_step == 6


def test_a_result_tells_what_the_run_was_and_reached(trained):
    folder, _ = trained
    result = read(folder)
    directory = RunDirectory(folder, 20)
    best = directory.best_step("full/ndcg@10")
    assert (result.step, result.chosen_by, result.last_step) == (best, "full/ndcg@10", 6)
    assert result.validation == directory.metrics_of(best, "validation")
    assert result.test == metrics(folder)
    assert result.configuration["BATCH_SIZE"] == "4"
    assert result.seconds >= directory.seconds(6) > directory.seconds(3) > 0


def test_a_training_without_a_step_leaves_what_made_the_run(trained, tmp_path, monkeypatch):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    made = dataclasses.replace(read(folder), version="0.0.9", commit="c0ffee", seconds=1.0)
    made.write(folder)
    monkeypatch.setattr(Run, "report", lambda *_: "stopped before its end")
    run("train", "--gin_file=toyshop.gin", f"--gin.MODEL_DIR={folder}", *SMALL)
    moved = made.configuration | {"MODEL_DIR": read(folder).configuration["MODEL_DIR"]}
    assert read(folder) == dataclasses.replace(made, configuration=moved)
    dataclasses.replace(made, configuration=moved | {"BATCH_SIZE": "5"}).write(folder)
    run("train", "--gin_file=toyshop.gin", f"--gin.MODEL_DIR={folder}", *SMALL)
    assert (read(folder).version, read(folder).test) == (recalign_version, {})


def test_what_is_read_and_learned_is_told_at_the_start(trained):
    """The learning rate among the scalars, and the layout of parameters and batches."""
    folder, _ = trained
    [events] = folder.glob("events.out.tfevents.*")
    found = {}
    for record in tf.data.TFRecordDataset(str(events)).as_numpy_iterator():
        event = tf.compat.v1.Event.FromString(record)
        found |= {(event.step, v.tag): v.simple_value for v in event.summary.value}
    # toyshop.gin warms up from nothing: T5X's schedule at the update that made the step.
    expected = [(step - 1) / 200 * 200**-0.5 for step in (3, 6)]
    rates = [found[step, "train/learning_rate"] for step in (3, 6)]
    assert rates == pytest.approx(expected, rel=1e-5)


def test_patience_ends_a_run_and_lets_it_go_on_only_as_far(shop, tmp_path, caplog):
    """With a learning rate of nothing, nothing improves on the first evaluation."""
    options = [*SMALL, "--gin.LEARNING_RATE=0", "--gin.EVAL_PERIOD=1", "--gin.PATIENCE=2"]
    options += ["--gin.MIXTURE_OR_TASK_NAME=toyshop_retrieval_only", "--gin.TRAIN_STEPS=5"]
    options += ["--gin.schedules.learning_rate_schedule.min_learning_rate=0"]
    arguments = ("train", "--gin_file=toyshop.gin", f"--gin.MODEL_DIR={tmp_path}", *options)
    table = run(*arguments)
    assert table.startswith("test, step 1, the best on validation by full/ndcg@10\n")
    assert "full/ndcg@10 has not improved for 2 evaluations" in caplog.text
    assert "parameters:\n" in caplog.text
    assert "token_embedder/embedding" in caplog.text
    assert re.search(r"encoder_input_tokens +int32\[4, 256\] +1,024", caplog.text)
    steps = {p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()}
    assert steps == {"1", "2", "3"}  # the best and the newest two
    history = (tmp_path / "metrics.jsonl").read_text()
    assert run(*arguments) == table
    assert (tmp_path / "metrics.jsonl").read_text() == history
    assert [call["step"] for call in calls.read(tmp_path)] == [0, 3]
    assert run(*arguments, "--gin.PATIENCE=3") == table
    assert max(call["step"] for call in calls.read(tmp_path)) == 3
    assert (tmp_path / "checkpoints" / "4").exists()


def test_tasks_are_evaluated_in_periods_of_their_own(shop, tmp_path):
    periods = "--gin.EVAL_PERIODS={'ranking': 2}"
    options = [*SMALL, "--gin.EVAL_PERIOD=3", "--gin.TRAIN_STEPS=5", periods]
    options += ["--gin.MIXTURE_OR_TASK_NAME=toyshop_recommendation"]
    arguments = ("train", "--gin_file=toyshop.gin", *options, "--profile=2:2")
    run(*arguments, f"--gin.MODEL_DIR={tmp_path}")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    kinds = {
        line["step"]: {name.split("/")[0].removeprefix("toyshop_") for name in line if "/" in name}
        for line in lines
        if line["split"] == "validation"
    }
    assert kinds == {
        2: {"ranking"},
        3: {"retrieval"},
        4: {"ranking"},
        5: {"ranking", "retrieval"},
    }
    [trace] = (tmp_path / "plugins" / "profile").glob("*/*.xplane.pb")
    assert b"_step" in trace.read_bytes()
    with pytest.raises(UserError, match="EVAL_PERIODS has mim, but what is evaluated is rank"):
        run(*arguments, "--gin.EVAL_PERIODS={'mim': 2}", f"--gin.MODEL_DIR={tmp_path / 'new'}")


@pytest.mark.parametrize("profile", ["3", "0:2", "2:0", "a:b", "-1:2"])
def test_a_profile_is_a_first_step_and_a_count(profile):
    with pytest.raises(UserError, match="must be FIRST:COUNT"):
        run("train", "--gin_file=toyshop.gin", "--gin.MODEL_DIR=x", f"--profile={profile}")


def test_a_metric_that_is_no_number_ends_nothing(trained, tmp_path, monkeypatch, caplog):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    monkeypatch.setattr(metrics_of, "candidate_ranking", lambda *_: {"cand9/hr@10": np.nan})
    run("eval", "--model_dir", folder)
    assert metrics(folder)["toyshop_ranking/test/cand9/hr@10"] is None
    assert "toyshop_ranking/test/cand9/hr@10 is no finite number" in caplog.text
    assert "toyshop_retrieval/test/full/hr@10" in metrics(folder)


def test_the_recall_of_the_beam_is_told(shop, trained, tmp_path):
    """Beside sets: what `infer` finds, and the best by the scores of one item after the other."""
    options = [*SMALL, "--gin.TRAIN_STEPS=1", "--gin.NUM_BEAMS=10"]
    # Titles have so many beginnings that ten beams lose some of the best items.
    options += ["--gin.MIXTURE_OR_TASK_NAME=toyshop_retrieval_only"]
    options += ["--gin.item_texts.target_form=title"]
    run("train", "--gin_file=toyshop.gin", f"--gin.MODEL_DIR={tmp_path}", *options)
    before = metrics(tmp_path)
    printed = run("eval", "--model_dir", tmp_path, "--beam_recall", 30)
    told = dict(line.split() for line in printed.splitlines())
    assert set(told) == {"full/beam_recall@10", "full_unseen/beam_recall@10"}
    new = load(str(tmp_path))
    examples = new.retrieval_examples("test", 30)
    histories = np.split(examples.events, examples.offsets[1:-1])
    every = np.tile(np.arange(shop.num_items, dtype=np.int32), (30, 1))
    scores = new.evaluation.catalogue_model(examples).score(
        new.restore()[1], examples.inputs, every
    )
    unseen_scores = scores.copy()
    for row, history in zip(unseen_scores, histories, strict=True):
        row[history] = -np.inf
    number_of = {key: item for item, key in enumerate(shop.items["key"])}
    lines = predictions(tmp_path, "toyshop_retrieval", tmp_path)[:30]
    beam = [[number_of[key] for key in line["items"]] for line in lines]
    unseen_beam = of_run(new).recommend(histories, 10).items
    for protocol, found, own in (
        ("full", beam, scores),
        ("full_unseen", unseen_beam, unseen_scores),
    ):
        best = np.argsort(-own, axis=1)[:, :10]
        recall = np.mean([len({*f} & {*b}) / 10 for f, b in zip(found, best, strict=True)])
        assert 0 < recall < 1
        assert float(told[f"{protocol}/beam_recall@10"]) == pytest.approx(recall, abs=1e-4)
    assert metrics(tmp_path) == before


def test_a_run_is_compared_and_added_up(trained, tmp_path):
    """With itself there is no difference; what is added is ranked in a row of its own."""
    folder = shutil.copytree(trained[0], tmp_path / "run")
    output = tmp_path / "rows.json"
    options = ["eval", "--model_dir", folder, "--step", "best"]
    table = run(*options, "--against", trained[0], "--with", "slit,tale", "--output", output)
    assert metrics(folder) == metrics(trained[0])
    rows = json.loads(output.read_text())
    found = {tuple(name.split("/test/")[0].split("/", 1)) for name in rows}
    retrieval = {row for task, row in found if task == "toyshop_retrieval"}
    [ahead] = [row for row in retrieval if row.startswith(f"ahead of {trained[0]}, step ")]
    [together] = [row for row in retrieval if row.startswith("recalign + ")]
    assert retrieval == {
        *("recalign", ahead, together, "SLIT", "TALE", "popularity", "item co-occurrence")
    }
    assert re.fullmatch(r"recalign \+ [\d.]+ SLIT \+ [\d.]+ TALE", together)
    differences = {v for n, v in rows.items() if n.split("/test/")[0].endswith(ahead)}
    assert max(map(abs, differences)) < 1e-15
    for name in (together, "SLIT"):
        # A shop whose structure SLIT sees, and a model of six steps, which does not.
        better = rows[f"toyshop_retrieval/{name}/test/full_unseen/hr@10"]
        assert better > rows["toyshop_retrieval/recalign/test/full_unseen/hr@10"]
    assert f"| {together} " in table
    assert "+0.0000 [.0000, .0000]" in table
    for name, message in (("svd", "'svd' is neither a run's"), ("item_mean", "predicts ratings")):
        with pytest.raises(UserError, match=message):
            run(*options, "--with", name)
    with pytest.raises(UserError, match="--beam_recall is asked alone"):
        run(*options, "--with", "slit", "--beam_recall", 5)


def test_infer_writes_what_eval_judges(trained, shop, tmp_path):
    lines = predictions(trained[0], "toyshop_retrieval", tmp_path, "best")
    split = shop.split("test")
    keys = shop.items["key"].to_numpy()
    assert len(lines) == len(split)
    for e, line in enumerate(lines):
        assert line["history"] == keys[history_of(split, e)].tolist()
        assert line["target"] == keys[split.targets[e]]
        assert len(set(line["items"])) == 20
        assert line["scores"] == sorted(line["scores"], reverse=True)
    hits = np.mean([line["target"] in line["items"][:10] for line in lines])
    assert hits == pytest.approx(metrics(trained[0])["toyshop_retrieval/test/full/hr@10"])


def test_infer_ranks_the_stored_candidates(trained, shop, tmp_path):
    lines = predictions(trained[0], "toyshop_ranking", tmp_path, "best")
    split, lists = shop.split("test"), shop.candidates("test")
    keys = shop.items["key"].to_numpy()
    assert len(lines) == len(split)
    for e, line in enumerate(lines):
        assert line["history"] == keys[history_of(split, e)].tolist()
        assert line["target"] == keys[split.targets[e]]
        assert sorted(line["items"]) == sorted(keys[lists[e]].tolist())
        assert line["scores"] == sorted(line["scores"], reverse=True)
    count, found = lists.shape[1], metrics(trained[0])
    hits = np.mean([line["target"] in line["items"][:10] for line in lines])
    assert hits == pytest.approx(found[f"toyshop_ranking/test/cand{count}/hr@10"])


def test_infer_asks_for_a_task_where_there_are_several(trained, tmp_path):
    options = ("infer", "--model_dir", trained[0], "--output", tmp_path / "out.jsonl")
    with pytest.raises(UserError, match="choose one with --task: toyshop_ra"):
        run(*options)
    with pytest.raises(UserError, match="no task 'toyshop_mim' that can be judged"):
        run(*options, "--task", "toyshop_mim")
    for output, message in (
        (tmp_path, "there is a folder of that name"),
        (tmp_path / "no" / "out.jsonl", "is not there: make it first"),
        (tmp_path / "file" / "out.jsonl", "is a file"),
    ):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match=message):
            # Before the run is looked for.
            run("infer", "--model_dir", tmp_path / "nothing", "--output", output)
    assert not (tmp_path / "out.jsonl").exists()


def test_one_of_several_retrieval_tasks_is_asked_for(trained, monkeypatch):
    """As a mixture of two domains has them."""
    every = Run._examples

    def two(self, split, number=None, task=None):
        [found] = [e for e in every(self, split, number) if type(e) is RetrievalExamples]
        both = [found, dataclasses.replace(found, task="other_retrieval")]
        return [e for e in both if task in (None, e.task)]

    commands = (["recommend", "--history", "#07"], ["serve"], ["eval", "--beam_recall", 5])
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_examples", two)
        for name, *options in commands:
            asked = (name, "--model_dir", trained[0], *options)
            told = "has several tasks: choose one with --task: toyshop_retrieval, other_retrieval"
            with pytest.raises(UserError, match=told):
                run(*asked)
        assert run(*commands[0], "--model_dir", trained[0], "--task", "toyshop_retrieval")
    with pytest.raises(UserError, match="not trained to retrieve: toyshop_ranking is none"):
        run(*commands[0], "--model_dir", trained[0], "--task", "toyshop_ranking")


def test_an_evaluation_that_cannot_be_recorded_is_not_made(trained, monkeypatch):
    access = os.access
    there = Path(trained[0])
    monkeypatch.setattr(os, "access", lambda path, mode: path != there and access(path, mode))
    monkeypatch.setattr(Run, "_examples", None)  # before any work
    with pytest.raises(UserError, match="cannot be written to, and its"):
        run("eval", "--model_dir", trained[0])


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """A domain with ratings: a taste of one's own, and items of different quality."""
    rng = np.random.default_rng(0)
    rows = ["user_id,item_id,rating"]
    for user in range(60):
        for item in rng.choice(40, 9, replace=False):
            rows.append(f"u{user},i{item},{np.clip(item % 4 + user % 3, 1, 5)}")
    path = tmp_path_factory.mktemp("rated") / "events.csv"
    path.write_text("\n".join(rows))
    run("prepare", "table", "--interactions", path, "--name", "rated", "--vocab_size", 400)
    register_domain("rated")  # as a new process would
    return domains.load("rated")


@pytest.mark.parametrize("mixture", ["rated_rating_only", "rated_aligned"])
def test_ratings_are_judged_and_predicted(rated, tmp_path, mixture):
    options = [*SMALL, "--gin.TRAIN_STEPS=2", f"--gin.MIXTURE_OR_TASK_NAME={mixture}"]
    table = run("train", "--gin_file=toyshop.gin", f"--gin.MODEL_DIR={tmp_path}", *options)
    assert table.count("biased MF") == 2  # under rating and under rating_expected
    split, found = rated.rating_split("test"), metrics(tmp_path)
    lines = predictions(tmp_path, "rated_rating", tmp_path)
    place = {
        (rated.items["key"][item], tuple(rated.items["key"][rated_of(split, e)[0]])): e
        for e, item in enumerate(split.items)
    }
    fallback = rated.rating_split("train").ratings.mean()
    written, expected = [], []
    for line in lines:
        others = tuple(i for i in line["history"] if i != line["item"])
        e = place.pop((line["item"], others))
        assert line["rating"] == split.ratings[e]
        assert 1 <= line["expected"] <= 5
        value = line["written"] if line["written"] is not None else fallback
        written.append(value - line["rating"])
        expected.append(line["expected"] - line["rating"])
    assert not place
    for protocol, errors in (("rating", written), ("rating_expected", expected)):
        name = f"rated_rating/test/{protocol}"
        assert found[f"{name}/rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))))
        assert found[f"{name}/mae"] == pytest.approx(np.mean(np.abs(errors)))
    parsed = np.mean([line["written"] is not None for line in lines])
    assert found["rated_rating/test/rating/parse_rate"] == pytest.approx(parsed)


def test_fewer_than_ten_beams_leave_out_what_is_deeper(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    config = (folder / "config.gin").read_text()
    assert config.count("NUM_BEAMS = 20\n") == 1
    (folder / "config.gin").write_text(config.replace("NUM_BEAMS = 20\n", "NUM_BEAMS = 5\n"))
    run("eval", "--model_dir", folder)
    found = {name for name in metrics(folder) if name.startswith("toyshop_retrieval/test/full/")}
    depths = {int(name.partition("@")[2]) for name in found if "hr@" in name or "ndcg@" in name}
    assert depths == {1, 5}


def test_config_gin_alone_begins_the_same_run_which_goes_on_where_it_stopped(trained, tmp_path):
    config, where = trained[0] / "config.gin", f"--gin.MODEL_DIR={tmp_path}"
    run("train", "--gin_file", config, where, "--gin.TRAIN_STEPS=3")
    run("train", "--gin_file=toyshop.gin", where, *SMALL)
    assert metrics(tmp_path) == metrics(trained[0])
    begun, whole = (json.loads((f / "metrics.jsonl").read_text().splitlines()[0]) for f in (
        tmp_path, trained[0]
    ))  # fmt: skip
    assert begun == whole


def test_a_run_becomes_a_folder_of_transformers_that_needs_nothing_else(
    trained, shop, tmp_path, monkeypatch
):
    """With relative paths, as in the README, and with one that no shell writes out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = shutil.copytree(trained[0], tmp_path / "runs/my_shop")
    said = run("convert", "runs/my_shop", "my_shop_t5", "--to", "hf")
    assert "my_shop_t5: " in said
    written = (tmp_path / "my_shop_t5/spiece.model").read_bytes()
    own = sentencepiece.SentencePieceProcessor(model_file=str(shop.path / "spiece.model"))
    found = sentencepiece.SentencePieceProcessor(model_proto=written)
    text = "#01 Red car, #17 Blue train"
    assert found.encode(text) == own.encode(text)
    options = ["train", "--gin_file=toyshop.gin", "--gin.MODEL_DIR=~/runs/again", *SMALL]
    run(*options, "--gin.TRAIN_STEPS=0", "--gin.INITIAL_CHECKPOINT_PATH='my_shop_t5'")
    run("eval", "--model_dir", "runs/my_shop")
    assert metrics(tmp_path / "runs/again") == metrics(folder)
    assert not Path("~").exists()
    config = (folder / "config.gin").read_text()
    (folder / "config.gin").write_text(config.replace("'toyshop_aligned'", "'gone_aligned'"))
    command = ["convert", "runs/my_shop/checkpoints/3", "again", "--to=hf"]
    result = CliRunner().invoke(recalign, command)
    assert result.exit_code == 0  # the domain is not there any more, the parameters are
    assert "no vocabulary is written beside the parameters" in result.stderr
    assert "gone_aligned" in result.stderr
    assert not (tmp_path / "again/spiece.model").exists()


def test_an_input_that_the_position_does_not_fit_starts_anew_if_that_is_accepted(
    trained, tmp_path, caplog
):
    caplog.set_level("INFO", "recalign")
    folder = shutil.copytree(trained[0], tmp_path / "run")
    changed = ["--gin.PACK=False", "--gin.TRAIN_STEPS=7", "--gin.EVAL_PERIOD=0"]
    options = ["train", "--gin_file=toyshop.gin", f"--gin.MODEL_DIR={folder}", *SMALL, *changed]
    with pytest.raises(UserError, match=r"begun with another configuration(.|\n)*--accept_changes"):
        run(*options)
    run(*options, "--accept_changes")
    assert "position at step 6" in caplog.text
    assert "resumed at step 6: parameters, optimiser; the input starts anew" in caplog.text
    assert {p.name for p in (folder / "checkpoints").iterdir()} >= {"6", "7"}


def test_a_run_can_start_from_the_parameters_of_another(trained, tmp_path):
    run(
        *("train", "--gin_file=toyshop.gin", f"--gin.MODEL_DIR={tmp_path}", *SMALL),
        f"--gin.INITIAL_CHECKPOINT_PATH={trained[0] / 'checkpoints'}",
        "--gin.TRAIN_STEPS=0",
    )
    newest = shutil.copytree(trained[0], tmp_path / "newest")
    run("eval", "--model_dir", newest)
    assert metrics(tmp_path) == metrics(newest)


def test_parameters_of_another_vocabulary_are_told(trained, tmp_path, monkeypatch, caplog):
    others = {"vocabulary": "sha256 of another"}
    monkeypatch.setattr(initial_state, "read_provenance", lambda checkpoint: others)
    run(
        *("train", "--gin_file=toyshop.gin", f"--gin.MODEL_DIR={tmp_path}", *SMALL),
        f"--gin.INITIAL_CHECKPOINT_PATH={trained[0]}",
        "--gin.TRAIN_STEPS=0",
    )
    assert "was trained with another vocabulary (sha256 of another, and this run" in caplog.text


def test_tasks_lists_and_shows(shop):
    listed = run("tasks")
    assert "toyshop_mim\n" in listed
    kinds = ("bpr", "mim", "mlm", "ranking", "retrieval")
    mixture = " + ".join(f"toyshop_{kind}" for kind in kinds)
    assert f"toyshop_aligned  = {mixture}" in listed
    shown = run("tasks", "toyshop_mim", "--examples", 2, "--gin.item_texts.history_form=title")
    assert shown.count("inputs  (") == 2
    assert "<extra_id_0>" in shown
    assert "are longer" in shown


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--gin.BATCH_SIZ=4", "nothing uses `BATCH_SIZ` .did you mean BATCH_SIZE"),
        ("--gin.T5Config.widht=4", "widht"),
        ("--gin.VOCAB_SIZE=512", "vocabulary has 860 token ids.*512 rows"),
        ("--gin.MIXTURE_OR_TASK_NAME=toyshop_alined", "did you mean toyshop_aligned"),
        ("--gin.MIXTURE_OR_TASK_NAME=beauty_aligned", "domain 'beauty' is not prepared"),
        ("--gin.MIXTURE_OR_TASK_NAME=toyshop_mim", "nothing to evaluate: take a mixture that"),
        ("--gin.MIXTURE_OR_TASK_MODULE=no.such", "no module 'no.such'"),
        ("--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 8}", "do not fit|are .* tokens"),
        ("--gin.Inference.num_beam=3", "num_beam"),
        ("--gin.NUM_BEAMS=0", "NUM_BEAMS is 0, but a ranking needs at least 1"),
        ("--gin.Partitioner.num_partitions=7", "does not divide"),
        ("TRAIN_STEPS=3", "what is 'TRAIN_STEPS=3'"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(shop, tmp_path, override, message):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=message):
        run("train", "--gin_file=toyshop.gin", f"--gin.MODEL_DIR={folder}", *SMALL, override)
    assert not (folder / "config.gin").exists()


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        run("eval", "--model_dir", tmp_path)
    assert not list(Path(tmp_path).iterdir())
