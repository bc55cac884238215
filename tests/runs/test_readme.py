"""recalign/README.md's commands on a catalogue of one's own, run to the letter on a small shop.

And the options of a recipe that gin/README.md tells of, on the same shop.

What a test on a machine without network must add is in `ADDED`; what is run elsewhere, or cannot be
run here, is in `NOT_HERE` with the reason.
"""

import contextlib
import json
import os
import re
import shlex

import pytest

from recalign.domains.readers import toyshop
from recalign.evaluation.baselines.sasrec.training import Recipe
from recalign.runs.configuration import bindings
from recalign.samples.registry import register_domain
from tests.commands import run
from tests.runs.test_run import SMALL
from tests.test_readmes import ROOT, commands, lines_of

FEW = ("num_heads=2", "head_dim=8", "mlp_dim=16")
ADDED = {
    "prepare": ["--vocab_size", 400],  # T5's own vocabulary and weights are elsewhere
    "train": [
        *SMALL,
        *(f"--gin.T5Config.{field}" for field in FEW),
        "--gin.VOCAB_SIZE=640",
        "--gin.INITIAL_CHECKPOINT_PATH=None",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 32}",
    ],
}
NOT_HERE = {
    "baseline --name all": "tests/evaluation/baselines fits each",
    "serve": "never ends: tests/serving",
    "prepare table …": "tests/cli/test_prepare.py",
    "train …": "needs FLAN-T5's weights; tests/runs/test_item_tokens.py has small ones",
    "convert flan_t5_base": "needs FLAN-T5's weights; tests/cli/test_convert.py has small ones",
    "add-items": "tests/runs/test_added_items.py: it takes a domain whose ids are codes or digits",
}
CALLS = commands((ROOT / "recalign" / "README.md").read_text())
RECIPES = (ROOT / "gin" / "README.md").read_text()


def is_run(call):
    line = " ".join(call[1:])
    return not any(line.startswith(start) for start in NOT_HERE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands that can be were run, one after the other; `printed.json` is theirs."""
    path = tmp_path_factory.mktemp("readme")
    # A vocabulary is loaded once a process, by its path, and others have a shop of this name.
    os.environ["RECALIGN_DATA_DIR"] = str(path / "data")
    raw = toyshop.generate(users=60, items=50)
    names = {"user": "customer", "item": "sku", "timestamp": "ordered_at"}
    orders = raw.interactions.rename(columns=names)
    orders["sku"] = "sku-" + orders["sku"].astype(str)
    orders.to_csv(path / "orders.csv.gz", index=False)
    items = raw.items.rename(columns={"key": "sku", "title": "name"})
    items["sku"] = "sku-" + items["sku"].astype(str)
    items.to_parquet(path / "products.parquet")
    printed = {}
    made = Recipe.__init__
    with contextlib.chdir(path), pytest.MonkeyPatch.context() as brief:
        # SASRec for an epoch.
        brief.setattr(Recipe, "__init__", lambda self, **given: made(self, **given, epochs=1))
        for _, command, *words in filter(is_run, CALLS):
            if command == "recommend":  # of this shop
                words[words.index("sku-17,sku-4")] = ",".join(items["sku"][:2])
            line = shlex.join([command, *words])
            printed[line] = run(command, *words, *ADDED.get(command, []))
            if command == "prepare":
                register_domain("my_shop")  # as a new process would
    (path / "printed.json").write_text(json.dumps(printed))
    return path


def test_every_command_is_run_here_or_it_is_said_where():
    assert len([*filter(is_run, CALLS)]) >= 10
    lines = [" ".join(call[1:]) for call in CALLS]
    unused = [start for start in NOT_HERE if not any(line.startswith(start) for line in lines)]
    assert unused == []


def test_they_lead_from_two_tables_to_all_that_is_promised(folder):
    printed = json.loads((folder / "printed.json").read_text())
    [summed] = [text for line, text in printed.items() if "--with slit,sasrec" in line]
    assert re.search(r"recalign \+ [\d.]+ SLIT \+ [\d.]+ SASRec", summed)
    [recommended] = [text for line, text in printed.items() if line.startswith("recommend")]
    assert len(recommended.splitlines()) == 11  # ten, under a heading
    assert len((folder / "ranking.jsonl").read_text().splitlines()) > 10
    for page in ("report.html", "runs/my_shop/report.html"):  # training has left the second
        assert (folder / page).read_text().startswith("<!doctype html>")
    assert {"spiece.model", "model.safetensors", "config.json"} <= {
        path.name for path in (folder / "my_shop_t5").iterdir()
    }


def test_every_option_that_is_told_of_a_recipe_does_something(folder, tmp_path):
    options = [shlex.split(line, comments=True) for line in lines_of(RECIPES)]
    options = [option for [option] in options]
    assert len(options) == 11
    # Answers of several items have no titles, and neighbours are ids: options of two recipes.
    another = "add_eos|next_items|templates|EMBEDDINGS|Inference"
    apart = [option for option in options if re.search(another, option)]
    shown = run(
        *("tasks", "my_shop_retrieval", "--split=test", "--examples=1"),
        *(option for option in options if option not in apart),
    )
    question, answer = re.findall(r"\(\d+ tokens.*?\): (.*)", shown)
    assert "#" not in question
    given, found = re.findall(r"#\d+ ([A-Z]\w+)", answer)
    assert given in question
    assert found
    trained = [
        *("train", "--gin_file=toyshop.gin", *ADDED["train"], "--gin.TRAIN_STEPS=1"),
        *("--gin.MIXTURE_OR_TASK_NAME=my_shop_retrieval_only", f"--gin.MODEL_DIR={tmp_path}"),
    ]
    run(*trained, *apart)  # an option that nothing uses would be an error
    config = bindings((tmp_path / "config.gin").read_text())
    for option in apart:
        name, _, value = option.removeprefix("--gin.").partition("=")
        [kept] = [config[key] for key in config if key.endswith(name)]
        assert str(kept) == value
