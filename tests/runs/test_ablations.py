"""What each ablation changes, and the table of a list of them."""

import json
import re
import statistics

import numpy as np
import pytest
import seqio
from click.testing import CliRunner

from recalign import domains, prompts
from recalign.cli import recalign
from recalign.errors import UserError
from recalign.evaluation.outcomes import Evaluated, Ranks, summarise
from recalign.runs import ablations, configuration
from recalign.runs.directory import RunDirectory
from recalign.runs.result import Result
from recalign.runs.run import Run, make
from recalign.samples.registry import register_domain
from tests.commands import run
from tests.runs.test_run import SMALL
from tests.samples.reading import fits, items_in, read

TEMPLATES = {
    "retrieval": prompts.RETRIEVAL,
    "ranking": prompts.RANKING,
    "mim": prompts.MIM,
    "mlm": prompts.MLM,
    "bpr": prompts.BPR,
}
LENGTHS = {"inputs": 256, "targets": 64}


@pytest.fixture(scope="module", autouse=True)
def shop():
    run("prepare", "toyshop", "--users", 120, "--items", 60)
    register_domain("toyshop")
    return domains.load("toyshop")


def samples(ablation, task, number=200):
    """Training samples of a task of the shop, under toyshop.gin with an ablation."""
    files = ["toyshop.gin"] + ([f"ablations/{ablation}.gin"] if ablation else [])
    configuration.parse(files, ["MODEL_DIR=none"])
    stream = read(f"toyshop_{task}", "train", LENGTHS, epochs=None)
    return [sample for sample, _ in zip(stream, range(number), strict=False)]


def kinds(found):
    """The tasks whose wording a list of samples has."""
    return {
        kind
        for kind, templates in TEMPLATES.items()
        if any(fits(t, sample["inputs"]) for sample in found for t in templates)
    }


@pytest.mark.parametrize(
    ("ablation", "left_out"),
    [
        (None, set()),
        ("no_mim", {"mim"}),
        ("no_mlm", {"mlm"}),
        ("no_bpr", {"bpr"}),
        ("no_auxiliary", {"mim", "mlm", "bpr"}),
        ("only_mim", {"mlm", "bpr"}),
        ("only_mlm", {"mim", "bpr"}),
        ("only_bpr", {"mim", "mlm"}),
    ],
)
def test_a_task_that_is_left_out_gives_no_sample(ablation, left_out):
    found = samples(ablation, "aligned", 400)
    assert kinds(found) == set(TEMPLATES) - left_out
    # What is left keeps the recipe's rates: ranking has a quarter of the others'.
    ranking = sum(any(fits(t, s["inputs"]) for t in prompts.RANKING) for s in found)
    expected = 400 * 0.25 / (0.25 + len(TEMPLATES) - 1 - len(left_out))
    assert abs(ranking - expected) < 4 * expected**0.5


@pytest.mark.parametrize(
    "files",
    [
        ["toyshop_small.gin", "ablations/no_bpr.gin"],
        ["beauty_small.gin", "runs/ids_auxiliary.gin", "ablations/only_bpr.gin"],
    ],
)
def test_what_a_recipe_says_of_tasks_that_are_left_out_is_no_mistake(files, tmp_path, monkeypatch):
    def begin(**_):
        raise InterruptedError

    monkeypatch.setattr("recalign.runs.run.train", begin)
    overrides = [f"MODEL_DIR={tmp_path}", "MIXTURE_OR_TASK_NAME=toyshop_aligned", "EVAL_EXAMPLES=4"]
    configuration.parse(files, overrides)
    with pytest.raises(InterruptedError):
        make().train()


def test_auxiliary_samples_of_ids_alone_name_nothing_but_items():
    recipe = ["beauty_small.gin", "runs/ids_auxiliary.gin"]
    configuration.parse(recipe, ["MODEL_DIR=none", "MIXTURE_OR_TASK_NAME='toyshop_aligned'"])
    mixture = seqio.MixtureRegistry.get("toyshop_aligned")
    data = mixture.get_dataset({"inputs": 72, "targets": 56}, seed=0).take(400)
    vocabulary = mixture.output_features["inputs"].vocabulary
    texts = [vocabulary.decode(x["inputs"].tolist()) for x in data.as_numpy_iterator()]
    words = [re.sub(r"#\d+", "#", text) for text in texts]
    form = r"(# ?|<extra_id_\d+> ?)+|(# )+or # #|(# )*of( #)+"
    assert all(re.fullmatch(form, text) for text in words)
    # Retrieval has two samples for each of an auxiliary task, of which there are three.
    compared = sum(" or " in text for text in words)
    assert abs(compared - 400 * 0.5 / 2.5) < 4 * 80**0.5


@pytest.mark.parametrize(
    ("ablation", "ids", "titles"),
    [("ids", True, False), ("titles", False, True), ("ids_titles", True, True)],
)
def test_histories_name_items_as_the_ablation_says(shop, ablation, ids, titles):
    for sample in samples(ablation, "retrieval"):
        assert bool(items_in(sample["inputs"])) == ids
        assert any(title in sample["inputs"] for title in shop.items["title"]) == titles
        assert items_in(sample["targets"])


def test_answers_can_be_titles(shop):
    answers = {sample["targets"] for sample in samples("title_answers", "retrieval")}
    assert answers <= set(shop.items["title"])


@pytest.mark.parametrize(("ablation", "number"), [(None, 5), ("one_paraphrase", 1)])
def test_there_is_one_wording_or_there_are_many(ablation, number):
    found = samples(ablation, "retrieval")
    used = [t for t in prompts.RETRIEVAL if any(fits(t, s["inputs"]) for s in found)]
    assert used == list(prompts.RETRIEVAL[:number])


def cells(table):
    head, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    return head, lines


def interval(cell):
    """The ends in `0.2000 ± 0.0100 [.1000, .3000]`."""
    low, high = cell.partition("[")[2].rstrip("]").split(", ")
    return float(low), float(high)


def test_the_table_has_the_means_and_deviations_of_what_validation_chose(tmp_path, monkeypatch):
    options = [*SMALL, "--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=1", "--gin.NUM_BEAMS=10"]
    options += ["--gin.MIXTURE_OR_TASK_NAME=toyshop_recommendation"]
    chosen = ("--ablations", "recipe,ids", "--seeds", "0,1", "--output", tmp_path)
    arguments = ("ablate", "--gin_file=toyshop.gin", *chosen, *options)
    table = run(*arguments)
    head, lines = cells(table)
    assert [line[0] for line in lines] == ["recipe", "ids"]
    assert "toyshop_retrieval full/hr@10" in head
    folders = {name: [tmp_path / name / f"seed_{seed}" for seed in (0, 1)] for name, *_ in lines}
    for name, *row in lines:
        results = [json.loads((f / "result.json").read_text()) for f in folders[name]]
        assert not any(result["test"] for result in results)
        for result, folder in zip(results, folders[name], strict=True):
            directory = RunDirectory(folder, 20)
            assert result["step"] == directory.best_step("full/ndcg@10")
            assert result["validation"] == directory.metrics_of(result["step"], "validation")
            assert result["configuration"]["BATCH_SIZE"] == "4"
        assert results[0]["validation"] != results[1]["validation"]
        assert [result["seed"] for result in results] == [0, 1]
        for column, cell in zip(head[1:-2], row[:-2], strict=True):
            task, metric = column.split()
            values = [result["validation"][f"{task}/validation/{metric}"] for result in results]
            mean, (low, high) = statistics.mean(values), interval(cell)
            assert cell.startswith(f"{mean:.4f} ± {statistics.stdev(values):.4f} [")
            assert low <= round(mean, 4) <= high
            assert low < high or mean in (0, 1)
        assert row[-1] == " ".join(str(result["step"]) for result in results)
    # Again: from what is written, without training. What was cut off is made up for.
    (folders["ids"][1] / "result.json").unlink()
    trained = []
    train = Run.train
    monkeypatch.setattr(Run, "train", lambda self: trained.append(self.model_dir) or train(self))
    assert [line[:-2] for line in cells(run(*arguments))[1]] == [line[:-2] for line in lines]
    assert trained == [str(folders["ids"][1])]
    # Test is looked at when it is asked for, at the step that validation chose.
    head, lines = cells(run(*arguments, "--split", "test"))
    assert trained == [str(folders["ids"][1])]
    for name, *row in lines:
        results = [json.loads((f / "result.json").read_text()) for f in folders[name]]
        values = [result["test"]["toyshop_retrieval/test/full/hr@10"] for result in results]
        cell = row[head.index("toyshop_retrieval full/hr@10") - 1]
        assert cell.startswith(f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f} [")
        for result, folder in zip(results, folders[name], strict=True):
            assert RunDirectory(folder).metrics_of(result["step"], "test") == result["test"]
    # Another configuration is another run.
    with pytest.raises(UserError, match="begun with another configuration"):
        run(*arguments, "--gin.DROPOUT_RATE=0.3")


def test_several_domains_are_trained_by_one_recipe(tmp_path):
    run("prepare", "toyshop", "--users", 60, "--items", 40, "--name", "corner")
    register_domain("corner")
    options = [*SMALL, "--gin.TRAIN_STEPS=1", "--gin.NUM_BEAMS=10"]
    options += ["--gin.MIXTURE_OR_TASK_NAME=toyshop_retrieval_only"]
    chosen = ("--ablations", "recipe", "--seeds", "3", "--output", tmp_path)
    arguments = ("ablate", "--gin_file=toyshop.gin", *chosen, *options)
    table = run(*arguments, "--domains", "toyshop,corner")
    titles = [line for line in table.splitlines() if line and not line.startswith("|")]
    assert titles == ["toyshop", "corner"]
    for domain in titles:
        result = json.loads((tmp_path / domain / "recipe" / "seed_3" / "result.json").read_text())
        assert {name.split("/")[0] for name in result["validation"]} == {f"{domain}_retrieval"}
        assert f"{domain}_retrieval full/hr@10" in table
        page = (tmp_path / domain / "report.html").read_text()
        assert f"{domain}_retrieval, validation" in page


def test_one_seed_has_no_deviation(tmp_path):
    result = Result("", None, {}, 0, 2.5, 9, 6, None, {"t/validation/full/hr@10": 0.25})
    trained = ablations.Trained(result, tmp_path)
    row = ablations.format_table({"ids": [trained]}).splitlines()[2].split("|")
    assert [cell.strip() for cell in row[1:-1]] == ["ids", "0.2500", "2", "6"]


def test_candidates_have_a_column_however_many_there_are(tmp_path):
    """A small catalogue has fewer than a hundred."""
    found = {"full/hr@10/cold": 0.1, "cand41/hr@10": 0.5, "cand41/hr@1": 0.2, "full/hr@10": 0.25}
    named = {f"t/validation/{name}": value for name, value in found.items()}
    result = Result("", None, {}, 0, 2.5, 9, 6, None, named)
    table = ablations.format_table({"ids": [ablations.Trained(result, tmp_path)]})
    head, _, row = ([c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines())
    assert head == ["", "t full/hr@10", "t cand41/hr@10", "seconds", "steps"]
    assert row[:3] == ["ids", "0.2500", "0.5000"]


def test_intervals_are_of_the_means_over_seeds(tmp_path):
    """Two seeds, whose users had other luck: their mean's interval is narrower than each's."""
    users, rng = np.arange(300), np.random.default_rng(0)
    metric, found, trained = "t/validation/full/hr@10", [], []
    for seed in (0, 1):
        ranks = rng.integers(0, 30, 300)
        ranks[ranks > 20] = 0
        outcomes = {"full": Ranks(users, ranks, 20)}
        hits = float(np.mean((ranks > 0) & (ranks <= 10)))
        found.append(Evaluated({"full/hr@10": hits}, outcomes))
        folder = tmp_path / str(seed)
        folder.mkdir()
        tasks = {"t": ("shop sha256 0", outcomes)}
        RunDirectory(folder).record(7, "validation", {metric: hits}, tasks)
        result = Result("", None, {}, seed, 2.5, 9, 7, None, {metric: hits})
        trained.append(ablations.Trained(result, folder))
    row = summarise(found)
    [line] = ablations.format_table({"ids": trained}).splitlines()[2:]
    low, high = interval(line.split("|")[2].strip())
    assert low == pytest.approx(row["full/low/hr@10"], abs=6e-5)
    assert high == pytest.approx(row["full/high/hr@10"], abs=6e-5)
    alone = summarise(found[:1])
    assert high - low < alone["full/high/hr@10"] - alone["full/low/hr@10"]


def test_an_evaluation_on_more_examples_leaves_the_interval_as_it_was(tmp_path):
    """`recalign eval` takes all of validation, of which the result's metrics are not."""
    metric, cells = "t/validation/full/hr@10", []
    ranks = np.random.default_rng(0).integers(0, 21, 90)
    result = Result("", None, {"EVAL_EXAMPLES": "40"}, 0, 2.5, 9, 7, None, {metric: 0.5})
    for limit, size in ((40, 40), (None, 90)):
        outcomes = {"full": Ranks(np.arange(size), ranks[:size], 20)}
        tasks = {"t": ("shop sha256 0", outcomes)}
        RunDirectory(tmp_path, 40).record(7, "validation", {}, tasks, limit)
        cells.append(ablations.format_table({"ids": [ablations.Trained(result, tmp_path)]}))
    assert "[" in cells[0]
    assert cells[0] == cells[1]


@pytest.mark.parametrize("turned", [False, True])
def test_what_one_step_alone_was_evaluated_on_has_a_column(tmp_path, turned):
    """EVAL_PERIODS may leave a task out at the step that validation chose for a seed."""
    both = {"t/validation/full/hr@10": 0.25, "r/validation/cand100/hr@10": 0.5}
    alone = {"t/validation/full/hr@10": 0.75}
    trained = [
        ablations.Trained(Result("", None, {}, seed, 2.5, 9, 6, None, found), tmp_path)
        for seed, found in enumerate((alone, both) if turned else (both, alone))
    ]
    variations = {"recipe": trained, "ids": trained[:1], "titles": trained[1:]}
    head, lines = cells(ablations.format_table(variations))
    assert head == ["", "r cand100/hr@10", "t full/hr@10", "seconds", "steps"]
    ids, titles = ["0.5000", "0.2500"], ["-", "0.7500"]
    assert [line[1:3] for line in lines] == [
        ["-", "0.5000 ± 0.3536"],
        *((titles, ids) if turned else (ids, titles)),
    ]


def test_what_is_no_number_for_one_seed_has_no_mean_and_no_interval(tmp_path):
    metrics = {"full/hr@10": "t/validation/full/hr@10", "full/ndcg@10": "t/validation/full/ndcg@10"}
    trained = []
    for seed, ndcg in enumerate((0.5, None)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        tasks = {"t": ("shop sha256 0", {"full": Ranks(np.arange(4), np.array([1, 0, 0, 2]), 20)})}
        RunDirectory(folder).record(7, "validation", {}, tasks)
        found = dict(zip(metrics.values(), (0.5, ndcg), strict=True))
        result = Result("", None, {}, seed, 2.5, 9, 7, None, found)
        trained.append(ablations.Trained(result, folder))
    _, [line] = cells(ablations.format_table({"recipe": trained}))
    assert line[1].startswith("0.5000 ± 0.0000 [")
    assert line[2] == "-"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ablations", "recipe,nothing"], "ablations/nothing.gin"),
        (["--seeds", "0,one"], "must be whole numbers"),
        (["--gin.RANDOM_SEED=3"], "use --output and --seeds"),
        (["--gin.MODEL_DIR=elsewhere"], "use --output and --seeds"),
        (["--domains", "toyshop,nowhere"], "no task or mixture is named 'nowhere_aligned'"),
        (["--domains", "toyshop", "--gin.MIXTURE_OR_TASK_NAME=all"], "'all' is no mixture of"),
        (
            ["--ablations=recipe,no_mim", "--gin.MIXTURE_OR_TASK_NAME='toyshop_recommendation'"],
            "--ablations no_mim leaves nothing out: the tasks of toyshop_recommendation",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(tmp_path, options, message):
    arguments = ["ablate", "--gin_file=toyshop.gin", f"--output={tmp_path}", *SMALL, *options]
    result = CliRunner().invoke(recalign, arguments)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert not list(tmp_path.rglob("config.gin"))


def test_of_a_folder_of_tokens_nothing_can_be_left_out(tmp_path):
    tokens = tmp_path / "tokens"
    run("cache", "--gin_file=toyshop.gin", *SMALL, "--gin.TRAIN_STEPS=1", "--output", tokens)
    arguments = ["ablate", f"--gin_file={tokens}/train.gin", "--ablations=no_mim"]
    result = CliRunner().invoke(recalign, [*arguments, f"--output={tmp_path}/runs"])
    assert isinstance(result.exception, UserError)
    told = f"--ablations no_mim leaves nothing out: the tasks of {tokens} are the same"
    assert told in str(result.exception)
