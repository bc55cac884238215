"""Configurations that name modules where they once were, and a whole run as it once was."""

import importlib
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from recalign.runs import configuration
from recalign.runs.directory import RunDirectory
from recalign.runs.old_paths import MOVED, RENAMED, SPLIT, translate, translate_binding
from recalign.runs.run import load
from recalign.samples.registry import register_domain
from recalign.serving.recommender import of_run
from tests.commands import run

MODULES = [*MOVED.values(), *(path for parts in SPLIT.values() for path in parts.values())]


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("recalign.t5x.")])
def test_every_module_is_where_the_table_says(module):
    importlib.import_module(module)


def test_what_is_bound_anew_is_there():
    for path in {path.rpartition(".")[0] for path in RENAMED.values() if path}:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


def test_bindings_keep_their_names():
    old = (
        "from __gin__ import dynamic_registration\n"
        "from recalign import runs\n"
        "from recalign.engine import network\n"
        "from recalign.samples import items as texts\n"
        "runs.Run.model_dir = 'x'\n"
        "network.T5Config:\n"
        "  emb_dim = 8\n"
        "texts.item_texts.history_form = 'id'\n"
    )
    assert translate(old) == (
        "from __gin__ import dynamic_registration\n"
        "from recalign.runs import run as runs\n"
        "from recalign.engine.network import transformer as network\n"
        "from recalign.samples import items as texts\n"
        "runs.Run.model_dir = 'x'\n"
        "network.T5Config.emb_dim = 8\n"
        "texts.item_texts.history_form = 'id'\n"
    )


def test_what_is_bound_in_a_module_that_was_split_goes_to_its_part():
    old = "from recalign.samples import preprocessors\npreprocessors.mim.mask_rate = 0.3\n"
    assert translate(old).splitlines() == [
        "from recalign.samples import mim",
        "mim.mim.mask_rate = 0.3",
    ]


def test_what_feeds_a_run_and_asks_it_are_objects_now():
    old = (
        "from recalign import runs\n"
        "from recalign.engine import retriever\n"
        "from recalign.samples import inputs\n"
        "PACK = True\n"
        "NUM_BEAMS = 5\n"
        "runs.Run.train_input = @inputs.train_batches\n"
        "runs.Run.retriever = @retriever.Retriever\n"
        "runs.Run.decode = @inputs.decode\n"
        "inputs.train_batches.split = %PACK\n"
        "inputs.train_batches.seed = 3\n"
        "a/retriever.Retriever.num_beams = %NUM_BEAMS\n"
    )
    found = configuration.bindings(old)
    assert {name: repr(value) for name, value in found.items()} == {
        "NUM_BEAMS": "5",
        "recalign.runs.run.Run.data": "@recalign.samples.data.SeqioData()",
        "recalign.runs.run.Run.inference": "@recalign.engine.search.inference.Inference()",
        "recalign.samples.data.SeqioData.seed": "3",
        "a/recalign.engine.search.inference.Inference.num_beams": "%NUM_BEAMS",
    }
    assert translate_binding("Retriever.num_beams=3") == "Inference.num_beams=3"
    assert translate_binding("NUM_BEAMS=3") == "NUM_BEAMS=3"


def test_what_is_written_today_stays():
    text = "from recalign.samples import items\nfrom recalign.runs import run\n# a word\n"
    assert translate(text) == text


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """What commit e97eb70 left behind: toyshop.gin shrunk, two steps, live and from tokens.

    `prepare toyshop --users 40 --items 30 --vocab_size 340`; `cache`; `train` of both, which gave
    the same numbers, so that one checkpoint is kept.
    """
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(Path(__file__).parent / "golden" / "e97eb70.tar.xz") as archive:
        # Not as an argument: Python 3.11 takes that from 3.11.4 on.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)
    folder = folder / "e97eb70"
    shutil.copytree(folder / "run_from_tokens" / "checkpoints", folder / "run" / "checkpoints")
    for config in folder.glob("*/*.gin"):
        config.write_text(config.read_text().replace("/former/tokens", str(folder / "tokens")))
    return folder


@pytest.fixture
def _its_shop(old, monkeypatch):
    monkeypatch.setenv("RECALIGN_DATA_DIR", str(old / "data"))
    register_domain("toyshop")
    yield
    monkeypatch.undo()
    register_domain("toyshop")


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.usefixtures("_its_shop")
@pytest.mark.parametrize("name", ["run", "run_from_tokens"])
def test_an_old_run_gives_its_numbers(old, name):
    before = metrics(old / name)
    run("eval", "--model_dir", old / name)
    found = metrics(old / name)
    assert {metric: found[metric] for metric in before} == pytest.approx(before, abs=1e-6)


@pytest.mark.usefixtures("_its_shop")
def test_an_old_run_recommends(old):
    found = of_run(load(str(old / "run"))).recommend([[3, 1, 4]], 5)
    assert len(set(found.items[0].tolist()) - {3, 1, 4}) == 5
    assert np.isfinite(found.scores).all()


def test_an_old_run_from_tokens_goes_on(old, tmp_path):
    recipe = ("train", f"--gin_file={old}/tokens/train.gin", "--gin.TRAIN_STEPS=4")
    run(*recipe, f"--gin.MODEL_DIR={shutil.copytree(old / 'run_from_tokens', tmp_path / 'old')}")
    run(*recipe, f"--gin.MODEL_DIR={tmp_path / 'new'}")
    for step in (2, 3, 4):
        old_run, new_run = (RunDirectory(tmp_path / name) for name in ("old", "new"))
        expected, found = (run.metrics_of(step, "validation") for run in (new_run, old_run))
        # The old version evaluated the first step, and knew fewer metrics.
        both = expected.keys() & found.keys()
        assert len(both) > 20
        assert step == 2 or both == expected.keys()
        both = {metric: (expected[metric], found[metric]) for metric in both}
        for metric, (wanted, value) in both.items():
            assert value == pytest.approx(wanted, abs=1e-6), metric
