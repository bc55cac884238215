"""A small recipe of the toy shop, live and in tokens, and how it ends undisturbed."""

import pytest

from recalign.samples.registry import register_domain
from tests.commands import run
from tests.survival.running import WITH_TENSORFLOW, Recipe

SMALL = (
    "--gin.TRAIN_STEPS=24",
    "--gin.EVAL_PERIOD=6",
    "--gin.CHECKPOINT_PERIOD=2",
    "--gin.EVAL_EXAMPLES=8",
    "--gin.BATCH_SIZE=4",
    "--gin.NUM_BEAMS=4",
    "--gin.T5Config.emb_dim=16",
    "--gin.T5Config.mlp_dim=16",
    "--gin.T5Config.num_encoder_layers=1",
    "--gin.T5Config.num_decoder_layers=1",
    "--gin.Inference.length_multiple=256",  # questions of one shape
)


@pytest.fixture(scope="session")
def live(tmp_path_factory):
    """The recipe that reads the live SeqIO pipeline."""
    folder = tmp_path_factory.mktemp("domains")
    run("prepare", "toyshop", "--users=60", "--items=60", f"--data_dir={folder}")
    return Recipe(("--gin_file=toyshop.gin", *SMALL, f"--data_dir={folder}"), WITH_TENSORFLOW)


@pytest.fixture(scope="session")
def tokens(live, tmp_path_factory):
    """The folder that `recalign cache` wrote of it."""
    folder = tmp_path_factory.mktemp("tokens") / "toyshop"
    register_domain("toyshop")  # as a new process would
    run("cache", *live.arguments, f"--output={folder}")
    return folder


@pytest.fixture(scope="session")
def recipe(tokens):
    """The recipe that reads the folder of tokens."""
    return Recipe((f"--gin_file={tokens}/train.gin",))


@pytest.fixture(scope="session")
def whole(recipe, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    recipe.finish(folder)
    return folder
