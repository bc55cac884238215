"""`recalign convert` from the shell's side."""

import json

import numpy as np
from click.testing import CliRunner
from flax import traverse_util

from recalign.cli.convert import convert
from recalign.cli.prepare import prepare
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


def test_a_destination_that_is_not_empty_is_told_before_anything_is_read(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    arguments = [str(tmp_path / "nowhere"), str(tmp_path / "there"), "--to", "hf"]
    message = str(CliRunner().invoke(convert, arguments).exception)
    assert f"{tmp_path / 'there'} is there already and not empty" in message


def test_an_unknown_format_is_a_usage_error(tmp_path):
    result = CliRunner().invoke(convert, [str(tmp_path), str(tmp_path / "out"), "--to", "pt"])
    assert result.exit_code == 2
    assert "'pt' is not one of" in result.output


def saved(path, to, rows=40):
    config = T5Config(
        rows, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=12,
        num_encoder_layers=1, num_decoder_layers=1,
    )  # fmt: skip
    flat = {name: np.ones(shape, np.float32) for name, shape in parameter_shapes(config).items()}
    save_params(traverse_util.unflatten_dict(flat, sep="/"), path, to)


def test_where_no_vocabulary_is_known_that_is_told_and_one_can_be_given(tmp_path, shared):
    saved(tmp_path / "t5x", "t5x", rows=32_128)
    source, vocabulary = str(tmp_path / "t5x"), str(shared / "vocab/t5/spiece.model")
    result = CliRunner().invoke(convert, [source, str(tmp_path / "bare"), "--to", "hf"])
    assert result.exit_code == 0
    assert "give it as --vocabulary FILE" in result.stderr
    arguments = [source, str(tmp_path / "hf"), "--to", "hf", "--vocabulary", vocabulary]
    result = CliRunner().invoke(convert, arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert (tmp_path / "hf/spiece.model").exists()
    result = CliRunner().invoke(convert, [str(tmp_path / "hf"), str(tmp_path / "2"), "--to", "hf"])
    assert (result.exit_code, result.stderr) == (0, "")
    for name in ("spiece.model", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()


def test_a_vocabulary_has_no_place_in_other_formats(tmp_path):
    saved(tmp_path / "t5x", "t5x")
    arguments = ["--to", "orbax", "--vocabulary", str(tmp_path / "spiece.model")]
    result = CliRunner().invoke(convert, [str(tmp_path / "t5x"), str(tmp_path / "o"), *arguments])
    assert "--vocabulary is for --to hf" in str(result.exception)
    assert not (tmp_path / "o").exists()


def test_rows_for_the_tokens_of_items(tmp_path, shared, monkeypatch):
    monkeypatch.setenv("RECALIGN_DATA_DIR", str(tmp_path / "data"))
    vocabulary = ["--vocabulary", str(shared / "vocab/t5/spiece.model")]
    small = ["toyshop", "--users", "20", "--items", "40", "--name", "grown", *vocabulary]
    assert CliRunner().invoke(prepare, [*small, "--item_tokens"]).exit_code == 0
    saved(tmp_path / "t5x", "t5x", rows=32_128)
    arguments = [str(tmp_path / "t5x"), str(tmp_path / "hf"), "--to=hf", "--item_tokens=grown"]
    result = CliRunner().invoke(convert, arguments, catch_exceptions=False)
    assert "vocab_size = 32256" in result.output
    assert json.loads((tmp_path / "hf/config.json").read_text())["vocab_size"] == 32_256
    pieces = json.loads((tmp_path / "hf/tokenizer.json").read_text())["model"]["vocab"]
    assert [text for text, _ in pieces[32_000:32_040]] == [f"\u2581#{n:02d}" for n in range(40)]
    assert pieces[32_139][0] == "<extra_id_0>"
    assert CliRunner().invoke(prepare, [*small[:-4], "--name", "plain", *vocabulary]).exit_code == 0
    arguments = [*arguments[:1], str(tmp_path / "no"), "--to=t5x", "--item_tokens=plain"]
    result = CliRunner().invoke(convert, arguments)
    assert "'plain' was not prepared with --item_tokens" in str(result.exception)
    arguments = [*arguments[:-1], "--item_tokens=grown", *vocabulary, "--to=hf"]
    assert "leave out --vocabulary" in str(CliRunner().invoke(convert, arguments).exception)
