"""`recalign convert` from the shell's side."""

import numpy as np
from click.testing import CliRunner
from flax import traverse_util

from recalign.cli.convert import convert
from recalign.engine.network.config import T5Config, parameter_shapes
from recalign.engine.weights.conversion import load_params
from tests.engine.weights.saving import save_params


def test_converts_and_tells_the_architecture(tmp_path):
    config = T5Config(
        40, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=12,
        num_encoder_layers=1, num_decoder_layers=1,
    )  # fmt: skip
    flat = {name: np.ones(shape, np.float32) for name, shape in parameter_shapes(config).items()}
    save_params(traverse_util.unflatten_dict(flat, sep="/"), tmp_path / "t5x", "t5x")
    arguments = [str(tmp_path / "t5x"), str(tmp_path / "hf"), "--to", "hf"]
    result = CliRunner().invoke(convert, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    parameters = sum(value.size for value in flat.values())
    assert f"{parameters:,} parameters" in result.output
    assert "emb_dim = 8" in result.output
    assert (tmp_path / "hf/model.safetensors").exists()
    assert load_params(tmp_path / "hf", config)[0]["mlp_dim"] == 12


def test_an_unknown_format_is_a_usage_error(tmp_path):
    result = CliRunner().invoke(convert, [str(tmp_path), str(tmp_path / "out"), "--to", "pt"])
    assert result.exit_code == 2
    assert "'pt' is not one of" in result.output
