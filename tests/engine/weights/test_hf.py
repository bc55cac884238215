"""Hugging Face folders: what config.json says is honoured, kept or refused."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from recalign.engine.network.config import T5Config, parameter_shapes
from recalign.engine.network.transformer import Transformer
from recalign.engine.weights import safetensors
from recalign.engine.weights.conversion import convert, load_params, open_weights
from recalign.engine.weights.tensor import Tensor
from recalign.errors import UserError
from tests.engine.weights.saving import save_params

SMALL = {
    "vocab_size": 40,
    "emb_dim": 16,
    "num_heads": 2,
    "head_dim": 4,
    "mlp_dim": 24,
    "num_encoder_layers": 2,
    "num_decoder_layers": 1,
}
TABLE, HEAD = "shared.weight", "lm_head.weight"


def folder(path, **fields):
    """A small model that transformers might have written."""
    stream, params = np.random.RandomState(0), {}
    for name, shape in parameter_shapes(T5Config(**SMALL | fields)).items():
        tree = params
        *parents, leaf = name.split("/")
        for parent in parents:
            tree = tree.setdefault(parent, {})
        tree[leaf] = stream.standard_normal(shape).astype(np.float32)
    save_params(params, path, "hf")
    return path


def say(path, **fields):
    """Changes config.json; a field that is None goes."""
    config = json.loads((path / "config.json").read_text()) | fields
    config = {name: value for name, value in config.items() if value is not None}
    (path / "config.json").write_text(json.dumps(config))


def store(path, change):
    """Changes the arrays by `change(arrays)`, which may return others."""
    file = epath.Path(path / "model.safetensors")
    arrays = {name: tensor.read() for name, tensor in safetensors.read(file).items()}
    arrays = change(arrays) or arrays
    safetensors.write(file, {name: Tensor.of(array) for name, array in arrays.items()})


def logits(path):
    config, params = load_params(path)
    tokens = jnp.arange(2, 14).reshape(2, 6)
    apply = jax.jit(Transformer(T5Config(**config)).apply, static_argnames="enable_dropout")
    return apply({"params": params}, tokens, tokens[:, :4], tokens[:, :4], enable_dropout=False)


@pytest.fixture
def tied(tmp_path):
    """T5 1.0: the output projection is the table, scaled."""
    return folder(tmp_path / "tied", mlp_activations=("relu",), logits_via_embedding=True)


@pytest.fixture
def untied(tmp_path):
    return folder(tmp_path / "untied")


def test_a_stored_copy_of_the_head_stays_tied_and_scaled(tied):
    """As T5 1.0's folders have it: without the factor logits are too large by sqrt(d_model)."""
    expected = logits(tied)
    store(tied, lambda arrays: {**arrays, HEAD: arrays[TABLE]})
    np.testing.assert_array_equal(logits(tied), expected)
    assert open_weights(tied).config["logits_via_embedding"]
    # transformers writes what is the base class's default, true, not at all
    say(tied, tie_word_embeddings=None)
    np.testing.assert_array_equal(logits(tied), expected)


def test_a_head_that_is_not_the_table_is_no_tied_one(tied):
    store(tied, lambda arrays: {**arrays, HEAD: arrays[TABLE] + 1})
    with pytest.raises(UserError, match=r"tie_word_embeddings = true, but lm_head.weight is not"):
        open_weights(tied)


def test_a_head_that_is_said_to_be_stored_is_missed(tied):
    say(tied, tie_word_embeddings=False)
    with pytest.raises(UserError, match=r"tie_word_embeddings = false, but there is no lm_head"):
        open_weights(tied)


def test_an_equal_head_that_is_not_tied_is_not_scaled(tied):
    scaled = logits(tied)
    store(tied, lambda arrays: {**arrays, HEAD: arrays[TABLE]})
    say(tied, tie_word_embeddings=False)
    np.testing.assert_allclose(logits(tied), scaled * 4, rtol=1e-5)


def test_transformers_5_says_of_scaling_by_itself(tied, untied):
    """It calls every T5 tied, and says in scale_decoder_outputs what that meant before."""
    expected = logits(untied)
    say(untied, tie_word_embeddings=True, scale_decoder_outputs=False)
    np.testing.assert_array_equal(logits(untied), expected)
    scaled = logits(tied)
    say(tied, scale_decoder_outputs=True)
    np.testing.assert_array_equal(logits(tied), scaled)
    say(tied, scale_decoder_outputs=False)
    np.testing.assert_allclose(logits(tied), scaled * 4, rtol=1e-5)
    say(tied, tie_word_embeddings=False, scale_decoder_outputs=True)
    with pytest.raises(UserError, match="scale_decoder_outputs = true and tie_word_embeddings = f"):
        open_weights(tied)


@pytest.mark.parametrize(
    "said",
    [
        {"layer_norm_epsilon": 1e-5},
        {"relative_attention_num_buckets": 64},
        {"relative_attention_max_distance": 256},
        {"decoder_start_token_id": 3},
        {"eos_token_id": 2},
        {"pad_token_id": 39},
        {"quantization_config": {"quant_method": "fp8"}},
        {"vocab_size": 41},
        {"d_model": 8},
        {"d_kv": 8},
        {"num_heads": 4},
        {"d_ff": 48},
        {"num_layers": 3},
        {"num_decoder_layers": 2},
        {"num_decoder_layers": None},  # then it is num_layers, 2
        {"is_gated_act": False},
        {"dense_act_fn": "relu"},
        {"feed_forward_proj": "gelu_new"},
        {"feed_forward_proj": "gated-silu"},
    ],
    ids=str,
)
def test_what_the_network_does_otherwise_is_refused_and_named(untied, said):
    say(untied, **said)
    [name] = said
    with pytest.raises(UserError, match=name):
        open_weights(untied)


def test_what_is_not_said_of_the_decoder_is_as_in_the_encoder(tmp_path):
    same = folder(tmp_path / "same", num_decoder_layers=2)
    say(same, num_decoder_layers=None)
    assert open_weights(same).config["num_decoder_layers"] == 2


@pytest.mark.parametrize(
    ("said", "activation"),
    [
        ({"feed_forward_proj": "gated-silu", "dense_act_fn": "silu"}, "silu"),
        ({"feed_forward_proj": "gated-relu", "dense_act_fn": None, "is_gated_act": None}, "relu"),
        ({"dense_act_fn": None, "is_gated_act": None}, "gelu"),
    ],
    ids=str,
)
def test_activations_are_read_and_written_again(tmp_path, untied, said, activation):
    say(untied, **said)
    assert open_weights(untied).config["mlp_activations"] == (activation, "linear")
    convert(untied, tmp_path / "again", "hf")
    assert open_weights(tmp_path / "again").config["mlp_activations"] == (activation, "linear")


def test_what_says_nothing_of_the_parameters_is_kept(tmp_path, untied):
    said = {
        "dropout_rate": 0.0,
        "model_type": "mt5",
        "architectures": ["MT5ForConditionalGeneration"],
        "task_specific_params": {"summarization": {"prefix": "summarize: "}},
    }
    say(untied, **said)
    generation = {"decoder_start_token_id": 0, "num_beams": 7}
    (untied / "generation_config.json").write_text(json.dumps(generation))
    for name in ("spiece.model", "tokenizer_config.json"):
        (untied / name).write_text(name)
    before = json.loads((untied / "config.json").read_text())
    convert(untied, tmp_path / "again", "hf")
    assert json.loads((tmp_path / "again/config.json").read_text()) == before
    assert json.loads((tmp_path / "again/generation_config.json").read_text()) == generation
    assert (tmp_path / "again/spiece.model").read_text() == "spiece.model"
    assert (tmp_path / "again/tokenizer_config.json").exists()


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "3", "<!DOCTYPE html>"])
def test_a_description_that_is_no_object_is_named_and_nothing_written(tmp_path, untied, file, text):
    (untied / file).write_text(text)
    with pytest.raises(UserError, match=f"/{file} is no JSON"):
        convert(untied, tmp_path / "again", "hf")
    assert not (tmp_path / "again").exists()


def test_a_number_that_is_a_text_is_shown_as_one(untied):
    say(untied, d_model="8")
    with pytest.raises(UserError, match=r"d_model = '8', but its parameters \d+"):
        open_weights(untied)


@pytest.mark.parametrize(
    "names",
    [
        ["encoder.embed_tokens.weight"],
        ["decoder.embed_tokens.weight"],
        ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", TABLE],
    ],
    ids=lambda names: "+".join(names),
)
def test_the_table_is_found_under_any_of_its_names(untied, names):
    expected = logits(untied)
    store(untied, lambda arrays: arrays | dict.fromkeys(names, arrays.pop(TABLE)))
    np.testing.assert_array_equal(logits(untied), expected)


def test_the_table_of_a_tied_model_may_be_stored_as_its_head(tied):
    expected = logits(tied)
    store(tied, lambda arrays: arrays | {HEAD: arrays.pop(TABLE)})
    np.testing.assert_array_equal(logits(tied), expected)


def test_two_tables_are_no_t5(untied):
    name = "decoder.embed_tokens.weight"
    store(untied, lambda arrays: arrays | {name: arrays[TABLE] + 1})
    with pytest.raises(UserError, match=r"decoder\.embed_tokens\.weight is not shared\.weight"):
        open_weights(untied)


def test_a_dtype_that_is_not_supported_is_named_with_those_that_are(untied):
    file = untied / "model.safetensors"
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[8:end].replace(b'"F32"', b'"F8_E4M3"', 1)
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    with pytest.raises(UserError, match=r"has the dtype F8_E4M3, which is not sup.*F32.*BF16"):
        open_weights(untied)


@pytest.fixture
def sharded(untied):
    """As large models are stored: an index, and the file of each parameter in it."""
    (untied / "model.safetensors").rename(untied / "model-00001-of-00001.safetensors")
    arrays = safetensors.read(epath.Path(untied / "model-00001-of-00001.safetensors"))
    index = {"weight_map": dict.fromkeys(arrays, "model-00001-of-00001.safetensors")}
    (untied / "model.safetensors.index.json").write_text(json.dumps(index))
    return untied


def test_one_file_beside_an_index_is_the_one_that_transformers_takes(sharded):
    expected = logits(sharded)
    shutil.copy(sharded / "model-00001-of-00001.safetensors", sharded / "model.safetensors")
    store(sharded, lambda arrays: {**arrays, HEAD: arrays[HEAD] * 2})
    np.testing.assert_array_equal(logits(sharded), expected * 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "index.json is no JSON"),
        ("[]", "index.json is no JSON object"),
        ('{"metadata": {}}', "index.json has no weight_map"),
        ('{"weight_map": ["a"]}', "index.json has no weight_map"),
        ('{"weight_map": {"a": 3}}', "index.json has no weight_map"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "which is no safetensors file in it"),
    ],
)
def test_an_index_that_is_none_is_named(sharded, text, said):
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match=said):
        open_weights(sharded)


def test_a_pointer_of_git_lfs_is_no_file_of_tensors(untied):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (untied / "model.safetensors").write_text(pointer)
    with pytest.raises(UserError, match="git lfs pull"):
        open_weights(untied)


def test_a_cache_of_the_hub_is_told_from_a_folder_of_it(tmp_path, untied):
    shutil.copytree(untied, tmp_path / "models--google--flan/snapshots/abc")
    with pytest.raises(UserError, match="give a folder in its snapshots"):
        open_weights(tmp_path / "models--google--flan")


def test_a_parameter_that_is_not_finite_is_named(untied):
    store(untied, lambda arrays: {**arrays, HEAD: np.full_like(arrays[HEAD], np.inf)})
    with pytest.raises(UserError, match=r"logits_dense/kernel has values that are NaN or infin"):
        load_params(untied)
