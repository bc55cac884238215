"""launch/reproduce.py on the toy shop, in McAuley's format and with the real recipes shrunk."""

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from recalign.cli import recalign
from recalign.domains import vocabulary
from recalign.domains.readers import toyshop

LAUNCH = Path(__file__).parents[2] / "launch"
SHRUNK = [
    "--",
    "--gin.INITIAL_CHECKPOINT_PATH=None",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 256, 'targets': 32}",
    "--gin.VOCAB_SIZE=1152",
    "--gin.BATCH_SIZE=4",
    "--gin.TRAIN_STEPS=2",
    "--gin.EVAL_PERIOD=0",
    "--gin.EVAL_EXAMPLES=4",
    "--gin.NUM_BEAMS=4",
    "--gin.ACTIVATIONS_DTYPE=float32",
    "--gin.T5Config.emb_dim=16",
    "--gin.T5Config.mlp_dim=16",
    "--gin.T5Config.num_heads=1",
    "--gin.T5Config.num_encoder_layers=1",
    "--gin.T5Config.num_decoder_layers=1",
    "--gin.Inference.length_multiple=256",  # questions of one shape
]


@pytest.fixture
def reproduce(monkeypatch):
    monkeypatch.syspath_prepend(LAUNCH)  # where a script's own folder stands
    spec = importlib.util.spec_from_file_location("reproduce", LAUNCH / "reproduce.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "reproduce", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder in the place of McAuley's server, and a vocabulary in that of T5's."""
    folder = tmp_path_factory.mktemp("published")
    shop = toyshop.generate(users=40, items=30)
    stars = np.random.default_rng(0).integers(1, 6, len(shop.interactions))
    columns = {"user": "reviewerID", "item": "asin", "timestamp": "unixReviewTime"}
    reviews = shop.interactions.rename(columns=columns).assign(overall=stars).to_dict("records")
    items = shop.items.rename(columns={"key": "asin"}).to_dict("records")
    meta = [{**item, "categories": [[item["categories"]]]} for item in items]
    files = {"reviews": map(json.dumps, reviews), "meta": map(repr, meta)}
    for name, lines in zip(("reviews_Beauty_5", "meta_Beauty"), files.values(), strict=True):
        with gzip.open(folder / f"{name}.json.gz", "wt") as file:
            file.write("".join(f"{line}\n" for line in lines))
    vocabulary.train(shop.items, [], 500, folder)
    return folder


@pytest.fixture
def commands(reproduce, monkeypatch):
    """What is called, in this process; the codes that are asked for come instead of a call."""
    calls, codes = [], {}

    def run(command, check):
        name, *arguments = command
        assert (name, check) == ("recalign", False)
        calls.append(arguments)
        if code := codes.pop(len(calls), 0):
            return SimpleNamespace(returncode=code)
        done = CliRunner().invoke(recalign, arguments, catch_exceptions=False)
        return SimpleNamespace(returncode=done.exit_code)

    monkeypatch.setattr(reproduce, "subprocess", SimpleNamespace(run=run))
    return calls, codes


def test_a_table_from_the_publisher_s_files_that_was_cut_off(
    reproduce, published, commands, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("RECALIGN_DATA_DIR", str(tmp_path / "data"))
    mixtures = ("aligned", "rating_only")
    options = ["--domains=beauty", f"--mixtures={','.join(mixtures)}"]
    options += [f"--output={tmp_path / 'runs'}", f"--raw={tmp_path / 'raw'}"]
    options += [f"--source={published.as_uri()}", f"--vocabulary={published / 'spiece.model'}"]
    calls, codes = commands
    codes[3] = 75  # the second training
    assert reproduce.main([*options, *SHRUNK]) == 75
    assert [call[0] for call in calls] == ["prepare", "train", "train"]
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == [
        "meta_Beauty.json.gz",
        "reviews_Beauty_5.json.gz",
    ]
    for call, mixture in zip(calls[1:], mixtures, strict=True):
        assert {"--gin_file=beauty.gin", f"--gin.MIXTURE_OR_TASK_NAME=beauty_{mixture}"} < {*call}
    cut_off = calls[2]
    calls.clear()
    capsys.readouterr()
    assert reproduce.main([*options, *SHRUNK]) == 0
    assert calls == [cut_off]
    table = capsys.readouterr().out.partition("## beauty")[2]
    assert protocols(table) == {
        "full": ["aligned"],
        "full_unseen": ["aligned"],
        "cand11": ["aligned"],
        "rating": ["aligned", "each task alone"],
        "rating_expected": ["aligned", "each task alone"],
    }
    assert (tmp_path / "runs/base.md").read_text() == f"## beauty{table}"
    calls.clear()
    assert reproduce.main([*options, *SHRUNK]) == 0
    assert calls == []
    assert reproduce.main([*options, "--dry_run", *SHRUNK]) == 0
    assert capsys.readouterr().out.count(" done | ") == 2


def protocols(text):
    """The names of the rows in each protocol's table."""
    parts = text.strip().split("\n\n")
    heads = [part.partition(":")[0] for part in parts[::2]]
    lines = [[line.split("|")[1].strip() for line in part.splitlines()[2:]] for part in parts[1::2]]
    return dict(zip(heads, lines, strict=True))


def rows(text):
    """The cells of the dry run's table by its runs."""
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: values for name, *values in cells}


def test_a_dry_run_tells_the_chip_hours_of_the_real_recipes(reproduce, tmp_path, capsys):
    found = {}
    for model in ("base", "xl"):
        options = [f"--model={model}", f"--output={tmp_path}", "--slice=v6e:2x4", "--dry_run"]
        assert reproduce.main(options) == 0
        text = capsys.readouterr().out
        found[model] = rows(text)
        assert len(found[model]) == 12
        for steps, flops, hours, chip_hours in found[model].values():
            total = int(steps.replace(",", "")) * float(flops) / (0.4 * 918e12) / 3600
            assert float(chip_hours) == pytest.approx(total, abs=0.06)
            assert float(hours) == pytest.approx(total / 8, abs=0.006)
        assert f"{12 * total:.1f} chip-hours in all at 40% of the peak" in text
    base, xl = (float(lines[f"{m}-sports-aligned"][1]) for m, lines in found.items())
    assert 8 < xl / base < 16  # 2.8 and 0.25 billion parameters
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_what_that_of_a_training_counts(reproduce, tmp_path, capsys):
    options = ["--domains=toys", f"--output={tmp_path}", "--dry_run"]
    assert reproduce.main([*options, *SHRUNK]) == 0
    steps, flops, *_ = rows(capsys.readouterr().out)["base-toys-aligned"]
    training = reproduce.Training("base", "toys", "aligned", tmp_path, tuple(SHRUNK[1:]))
    done = CliRunner().invoke(
        recalign, [*training.command[1:], "--dry_run"], catch_exceptions=False
    )
    assert f"FLOPs of a step     {flops}\n" in done.stdout
    assert steps == "2"


def test_what_cannot_be_made_is_told(reproduce, capsys):
    with pytest.raises(SystemExit):
        reproduce.main(["--domains=beauty,books"])
    assert "no 'books': there are beauty, toys, sports" in capsys.readouterr().err
