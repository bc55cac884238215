"""A model from scratch whose answers go on from the history: from its recipe to its use."""

import dataclasses
import json

import numpy as np
import pytest

from recalign import domains
from recalign.engine.training import side_information
from recalign.runs import run as runs
from recalign.runs.initial_state import start_state
from recalign.runs.item_embeddings import OWN, ItemEmbeddings, embeddings
from tests.commands import run

RECIPE = """
from __gin__ import dynamic_registration
from recalign.engine.network import transformer
from recalign.engine.training import side_information
from recalign.samples import items
from recalign.samples import retrieval

include 'models/small.gin'
include 'runs/train.gin'

MIXTURE_OR_TASK_NAME = 'toyshop_retrieval_only'
TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 8}
VOCAB_SIZE = 1152
BATCH_SIZE = 4
TRAIN_STEPS = 4
EVAL_PERIOD = 2
EVAL_EXAMPLES = 30
ITEM_EMBEDDINGS = 'both'

items.item_texts.history_form = 'id'
items.item_texts.add_eos = False
retrieval.retrieval.answer_prefix = 2
retrieval.retrieval.next_items = 4
retrieval.retrieval.cuts_per_sequence = 2
side_information.train_with_side_information.size = 16
transformer.T5Config.emb_dim = 16
transformer.T5Config.num_heads = 2
transformer.T5Config.head_dim = 8
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    run("prepare", "toyshop", "--users", 120, "--items", 60)
    path = tmp_path_factory.mktemp("recipe") / "continuing.gin"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run("train", f"--gin_file={recipe}", f"--gin.MODEL_DIR={folder}")
    return folder


def test_it_trains_evaluates_and_recommends(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert 0 <= metrics["toyshop_retrieval/test/full/ndcg@10"] <= 1
    assert metrics["toyshop_retrieval/test/full/invalid_rate"] == 0
    command = ["recommend", "--model_dir", trained, "--history", "#07,#31,#02", "--json"]
    beam, exact = (json.loads(run(*command, *more)) for more in ([], ["--exact"]))
    assert len(beam["items"]) > 5
    assert [row["item"] for row in beam["items"]] == [row["item"] for row in exact["items"]]
    # Another last item is another beginning of the answer, though all three are asked about.
    other = json.loads(run(*command[:-2], "#02,#31,#07", "--json"))
    assert other["items"] != beam["items"]


def test_tokens_alone_give_the_same_numbers(recipe, trained, tmp_path):
    run("cache", f"--gin_file={recipe}", "--output", tmp_path / "tokens")
    run("train", f"--gin_file={tmp_path}/tokens/train.gin", f"--gin.MODEL_DIR={tmp_path / 'run'}")
    one, other = ((f / "metrics.jsonl").read_text() for f in (trained, tmp_path / "run"))
    assert one == other


def test_a_seed_reaches_side_information(trained):
    """Seed 0 is what it is without any; a step of all seeds is one program."""
    found = runs.load(str(trained))

    def begin(seed):
        trainer = dataclasses.replace(found.trainer, seed=seed)
        options = ItemEmbeddings("both", seed=0)
        fresh = trainer.init_state()
        state = start_state(fresh, trainer, None, found.item_tokens, options, found.data)
        assert trainer.step_fn().func is found.trainer.step_fn().func
        return [side_information.find_state(s.opt_state) for s in (fresh, state)]

    (fresh, zero), (_, one) = begin(0), begin(1)
    np.testing.assert_array_equal(zero.kernel, fresh.kernel)
    assert zero.count == fresh.count == 0 != one.count
    assert np.abs(zero.kernel - one.kernel).max() > 0.1


def test_items_start_from_what_is_known_of_them(recipe, tmp_path):
    # One step that moves nothing: of none there is no checkpoint.
    still = ["--gin.TRAIN_STEPS=1", "--gin.LEARNING_RATE=1e-12"]
    options = [f"--gin.MODEL_DIR={tmp_path}", *still]
    run("train", f"--gin_file={recipe}", *options)
    found = runs.load(str(tmp_path))
    _, params = found.restore()
    table = np.asarray(params["token_embedder"]["embedding"])
    tokens = found.data.item_tokens("toyshop_retrieval")[:, 0]
    wanted = embeddings(ItemEmbeddings("both"), domains.load("toyshop"), 16)
    rows = table[tokens]
    kernel, *_ = np.linalg.lstsq(wanted, rows)
    assert (rows - wanted @ kernel).std() == pytest.approx(OWN, abs=0.1)
    assert rows.std() == pytest.approx(1, abs=0.3)  # the table's own
