"""What each ablation changes, and the table of a list of them."""

import json
import statistics

import gin
import pytest
from click.testing import CliRunner

from recalign import domains, prompts
from recalign.cli import recalign
from recalign.errors import UserError
from recalign.runs import ablations, configuration
from recalign.samples.registry import register_domain
from tests.runs.test_run import SMALL, run
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


@pytest.fixture(autouse=True)
def _no_configuration_left():
    yield
    gin.clear_config()


def samples(ablation, task, number=200):
    """Training samples of a task of the shop, under toyshop.gin with an ablation."""
    files = ["toyshop.gin"] + ([f"ablations/{ablation}.gin"] if ablation else [])
    configuration.parse(files, ["MODEL_DIR=none"])
    stream = read(f"toyshop_{task}", "train", LENGTHS, shuffle=True, epochs=None)
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


def test_the_table_has_the_means_and_deviations_of_what_the_runs_recorded(tmp_path):
    options = [*SMALL, "--gin.TRAIN_STEPS=2", "--gin.NUM_BEAMS=10"]
    chosen = ("--ablations", "recipe,ids", "--seeds", "0,1", "--output", tmp_path)
    table = run("ablate", "--gin_file=toyshop.gin", *chosen, *options)
    head, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    ]
    assert [line[0] for line in lines] == ["recipe", "ids"]
    assert "toyshop_retrieval full/hr@10" in head
    for name, *cells in lines:
        found = [
            json.loads((tmp_path / name / f"seed_{seed}" / "metrics.json").read_text())
            for seed in (0, 1)
        ]
        assert found[0] != found[1]
        for column, cell in zip(head[1:], cells, strict=True):
            task, metric = column.split()
            values = [row[f"{task}/test/{metric}"] for row in found]
            assert cell == f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
    assert run("ablate", "--gin_file=toyshop.gin", *chosen, *options) == table


def test_one_seed_has_no_deviation():
    report = {"t": {"recalign": {"full/hr@10": 0.25}, "popularity": {"full/hr@10": 0.5}}}
    assert (
        ablations.format_table({"ids": [report]}).splitlines()[2].split("|")[2].strip() == "0.2500"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ablations", "recipe,nothing"], "ablations/nothing.gin"),
        (["--seeds", "0,one"], "must be whole numbers"),
        (["--gin.RANDOM_SEED=3"], "use --output and --seeds"),
        (["--gin.MODEL_DIR=elsewhere"], "use --output and --seeds"),
        (["--gin.Verbaliser.paraphrases=0"], "must be at least 1"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(tmp_path, options, message):
    arguments = ["ablate", "--gin_file=toyshop.gin", f"--output={tmp_path}", *SMALL, *options]
    result = CliRunner().invoke(recalign, arguments)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert not list(tmp_path.rglob("config.gin"))
