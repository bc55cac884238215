"""Every mistake in a configuration is an error that names it."""

import gin
import pytest

from recalign.engine.network.config import T5Config
from recalign.errors import UserError
from recalign.runs import configuration

RECIPE = """
from __gin__ import dynamic_registration
from recalign.engine.network import transformer as network

WIDTH = %gin.REQUIRED
RATE = 0.1
network.T5Config:
  vocab_size = 100
  emb_dim = %WIDTH
  dropout_rate = %RATE
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.gin"
    path.write_text(RECIPE)
    yield str(path)
    gin.clear_config()


def test_files_and_overrides_configure_what_they_name(recipe):
    configuration.parse([recipe], ["WIDTH=8", "network.T5Config.head_dim=4"])
    config = gin.get_configurable(T5Config)()
    assert (config.emb_dim, config.dropout_rate, config.head_dim) == (8, 0.1, 4)
    configuration.check_all_used()


def test_what_is_neither_literal_nor_reference_is_a_string(recipe):
    configuration.parse([recipe], ["WIDTH=%RATE", "network.T5Config.dtype=bfloat16"])
    config = gin.get_configurable(T5Config)()
    assert (config.emb_dim, config.dtype) == (0.1, "bfloat16")


def test_the_operative_configuration_gives_the_same_again(recipe, tmp_path):
    configuration.parse([recipe], ["WIDTH=8"])
    config = gin.get_configurable(T5Config)()
    (tmp_path / "config.gin").write_text(configuration.operative())
    configuration.parse([str(tmp_path / "config.gin")])
    assert gin.get_configurable(T5Config)() == config


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        ([], "`WIDTH` must be set"),
        (["WIDTH=8", "RAT=0.2"], "nothing uses `RAT` .did you mean RATE"),
        (["WIDTH=8", "network.T5Config.emb_dims=3"], "emb_dims"),
        (["WIDTH=8", "network.T5Confg.emb_dim=3"], "T5Confg"),
        (["WIDTH=%NOWHERE"], "NOWHERE"),
        (["WIDTH"], "--gin.NAME=VALUE"),
    ],
)
def test_a_wrong_name_is_named(recipe, bindings, message):
    with pytest.raises(UserError, match=message):
        configuration.parse([recipe], bindings)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"nowhere\.gin"):
        configuration.parse(["nowhere.gin"])


def test_a_binding_that_nothing_makes_use_of_is_named(recipe, tmp_path):
    extra = tmp_path / "extra.gin"
    extra.write_text(
        "from __gin__ import dynamic_registration\n"
        "from recalign.engine import partitioning\n"
        "partitioning.Partitioner.num_partitions = 2\n"
    )
    configuration.parse([recipe, str(extra)], ["WIDTH=8"])
    gin.get_configurable(T5Config)()
    with pytest.raises(UserError, match=r"uses `partitioning.Partitioner.num_partitions`"):
        configuration.check_all_used()


def test_every_recipe_that_comes_with_recalign_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configuration.parse(["toyshop.gin"], ["MODEL_DIR=run"])
    gin.clear_config()
