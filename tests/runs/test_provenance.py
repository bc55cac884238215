"""A model belongs to the events that it was trained on, not to a catalogue alone."""

import json
import logging
import shutil

import pytest

from recalign import domains
from recalign.domains.readers import toyshop
from recalign.errors import UserError
from recalign.samples.registry import register_domain
from tests.commands import SMALL_NETWORK, run

SMALL = [
    "--gin_file=toyshop.gin",
    "--gin.MIXTURE_OR_TASK_NAME=exchange_retrieval_only",
    "--gin.TRAIN_STEPS=2",
    "--gin.EVAL_PERIOD=0",
    "--gin.EVAL_EXAMPLES=5",
    *SMALL_NETWORK,
]


def prepare(events, folder):
    events.to_csv(folder / "events.csv", index=False)
    tables = ["--interactions", folder / "events.csv", "--items", folder / "items.csv"]
    columns = ["--catalogue_item_column", "key", "--vocab_size", 500, "--overwrite"]
    run("prepare", "table", *tables, *columns, "--name", "exchange")
    register_domain("exchange")  # other tests may have imported recalign.tasks before
    return domains.load("exchange")


def exchanged(events):
    """The same events, of which two users have each other's."""
    first, second = events["user"].unique()[:2]
    return events.assign(user=events["user"].replace({first: second, second: first}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, a token folder and a run from it, all before two users' events are exchanged."""
    root = tmp_path_factory.mktemp("provenance")
    raw = toyshop.generate(users=40, items=30)
    raw.items.to_csv(root / "items.csv", index=False)
    before = prepare(raw.interactions, root)
    run("train", *SMALL, f"--gin.MODEL_DIR={root / 'live'}")
    run("cache", *SMALL, "--output", root / "tokens")
    run("train", f"--gin_file={root}/tokens/train.gin", f"--gin.MODEL_DIR={root / 'cached'}")
    shutil.rmtree(root / "tokens")
    after = prepare(exchanged(raw.interactions), root)
    run("cache", *SMALL, "--output", root / "tokens")
    # What an item table alone can tell is the same.
    assert before.items["key"].tolist() == after.items["key"].tolist()
    return root


INFER = ("infer", "--output", "predictions.jsonl")


@pytest.mark.parametrize(
    ("run_of", "command"),
    [
        ("live", ("eval",)),
        ("live", ("eval", "--beam_recall", 2)),
        ("live", INFER),
        ("live", ("recommend", "--user", "user-0001")),
        ("cached", ("eval",)),
        ("cached", INFER),
    ],
)
def test_other_events_are_another_domain(trained, tmp_path, monkeypatch, run_of, command):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is of another domain exchange: content "):
        run(*command, "--model_dir", trained / run_of)
    assert not (tmp_path / "predictions.jsonl").exists()


@pytest.mark.parametrize("run_of", ["live", "cached"])
def test_training_does_not_go_on_with_other_events(trained, run_of):
    recipe = SMALL if run_of == "live" else [f"--gin_file={trained}/tokens/train.gin"]
    with pytest.raises(UserError, match="is of another domain exchange: content "):
        run("train", *recipe, f"--gin.MODEL_DIR={trained / run_of}")


def test_a_run_of_an_earlier_version_is_evaluated_and_told_of(trained, tmp_path, caplog):
    """It took a fingerprint of the item table's bytes."""
    folder = shutil.copytree(trained / "live", tmp_path / "run")
    checkpoint = folder / "checkpoints" / "2"
    metadata = checkpoint / "provenance" / "metadata"
    stored = json.loads(metadata.read_text())
    assert stored["domain exchange"].startswith("content ")
    metadata.write_text(json.dumps(stored | {"domain exchange": "sha256 0123456789abcdef"}))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    del manifest["provenance/metadata"]
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    with caplog.at_level(logging.WARNING):
        run("eval", "--model_dir", folder)
    assert "took another fingerprint of its domain exchange" in caplog.text
