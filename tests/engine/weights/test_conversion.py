"""Checkpoints: three formats, both ways, recognised, checked, bit-equal."""

import errno
import json
import os
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util

from recalign.engine.network.config import T5Config, parameter_shapes
from recalign.engine.network.transformer import Transformer
from recalign.engine.weights import hf, safetensors
from recalign.engine.weights.conversion import FORMATS as FORMATS_BY_NAME
from recalign.engine.weights.conversion import convert, load_params, open_weights
from recalign.engine.weights.tensor import Tensor
from recalign.errors import UserError
from tests.engine.losses import batch_loss
from tests.engine.weights.saving import save_params

FORMATS = ("t5x", "hf", "orbax")


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def assert_same(actual, expected):
    actual, expected = flat(actual), flat(expected)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def values(path):
    """All tensors as they are stored, by name."""
    return {name: tensor.read() for name, tensor in open_weights(path).tensors.items()}


@pytest.fixture
def tiny(tiny_model):
    """Parameters of the tiny model, in numpy."""
    return jax.tree.map(np.asarray, tiny_model[1])


def test_a_t5x_checkpoint_is_read(shared):
    config, params = load_params(shared / "golden/t5x/checkpoint_0")
    expected = dict(np.load(shared / "golden/t5x/params.npz"))
    assert_same(params, traverse_util.unflatten_dict(expected, sep="/"))
    meta = json.loads((shared / "golden/t5x/meta.json").read_text())["config"]
    assert T5Config(**config, dropout_rate=0.0) == T5Config(**meta)


def test_a_hugging_face_folder_gives_its_logits_and_loss(shared):
    config, params = load_params(shared / "golden/hf")
    golden = np.load(shared / "golden/hf/golden.npz")
    # padded labels are masked from the loss, and 0 where the decoder reads them
    mask = golden["labels_mask"]
    labels = np.where(mask > 0, golden["labels"], 0).astype(np.int32)
    batch = {
        "encoder_input_tokens": np.where(golden["attention_mask"] > 0, golden["input_ids"], 0),
        "decoder_input_tokens": np.pad(labels, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": labels,
        "decoder_loss_weights": mask,
    }
    logits = Transformer(T5Config(**config)).apply(
        {"params": params},
        batch["encoder_input_tokens"],
        batch["decoder_input_tokens"],
        np.ones_like(labels),  # transformers hides no padded position from the decoder
        enable_dropout=False,
    )
    scale = np.abs(golden["logits"]).max()
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=1e-5 * scale)
    loss, _ = batch_loss(logits, batch, loss_normalizing_factor="NUM_REAL_TARGET_TOKENS")
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_what_is_written_is_read_back_bit_by_bit(tmp_path, tiny, to, dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), tiny)
    save_params(params, tmp_path / "out", to)
    assert_same(traverse_util.unflatten_dict(values(tmp_path / "out"), sep="/"), params)


@pytest.mark.parametrize("between", FORMATS)
@pytest.mark.parametrize("first", FORMATS)
def test_round_trips_are_bit_equal(tmp_path, tiny, first, between):
    save_params(tiny, tmp_path / "first", first)
    convert(tmp_path / "first", tmp_path / "between", between)
    convert(tmp_path / "between", tmp_path / "again", first)
    assert_same(values(tmp_path / "again"), values(tmp_path / "first"))


def test_the_golden_checkpoints_go_through_every_format(tmp_path, shared):
    for source in ("t5x/checkpoint_0", "hf"):
        expected = values(shared / "golden" / source)
        for to in FORMATS:
            out = tmp_path / f"{source.replace('/', '_')}_{to}"
            convert(shared / "golden" / source, out, to)
            assert_same(values(out), expected)


def test_hugging_face_files_are_those_of_its_library(tmp_path, shared):
    load_file = pytest.importorskip("safetensors.numpy").load_file
    convert(shared / "golden/hf", tmp_path / "out", "hf")
    ours = load_file(tmp_path / "out/model.safetensors")
    assert_same(ours, load_file(shared / "golden/hf/model.safetensors"))
    config = json.loads((tmp_path / "out/config.json").read_text())
    theirs = json.loads((shared / "golden/hf/config.json").read_text())
    same = theirs.keys() - {"transformers_version", "dtype", "classifier_dropout", "dropout_rate"}
    # transformers itself turns gated-gelu into gelu_new
    assert {k: config[k] for k in same} == {k: theirs[k] for k in same}


def test_shards_and_their_index(tmp_path, tiny):
    tensors = {name: Tensor.of(value) for name, value in flat(tiny).items()}
    save_params(tiny, tmp_path / "whole", "hf")
    config = open_weights(tmp_path / "whole").config
    (tmp_path / "shards").mkdir()
    hf.write(hf.epath.Path(tmp_path / "shards"), tensors, config, shard_bytes=4000)
    files = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert_same(values(tmp_path / "shards"), values(tmp_path / "whole"))
    (tmp_path / "shards" / files[1]).unlink()
    with pytest.raises(UserError, match=f"names {files[1]}, which is not there"):
        open_weights(tmp_path / "shards")


def test_the_architecture_is_seen_from_the_shapes(tmp_path, tiny, tiny_model):
    for to in FORMATS:
        save_params(tiny, tmp_path / to, to)
        assert T5Config(**open_weights(tmp_path / to).config) == tiny_model[0].config


@pytest.mark.parametrize(
    "config",
    [
        T5Config(40, emb_dim=16, num_heads=3, head_dim=4, mlp_dim=24, num_decoder_layers=2),
        T5Config(40, mlp_activations=("relu",), logits_via_embedding=True),
        T5Config(40, copy_gate=True, copy_weights=True),
    ],
)
def test_parameter_shapes_are_the_network_s(config):
    ones = jnp.ones((1, 2), jnp.int32)
    made = jax.eval_shape(
        lambda: Transformer(config).init(jax.random.key(0), ones, ones, ones, enable_dropout=False)[
            "params"
        ]
    )
    assert {k: v.shape for k, v in flat(made).items()} == parameter_shapes(config)


@pytest.mark.parametrize("to", FORMATS)
def test_t5_1_0_with_tied_logits_and_relu(tmp_path, to):
    config = T5Config(
        40, emb_dim=16, num_heads=2, head_dim=4, mlp_dim=24, num_encoder_layers=1,
        num_decoder_layers=1, mlp_activations=("relu",), logits_via_embedding=True,
    )  # fmt: skip
    stream = np.random.RandomState(0)
    params = {k: stream.rand(*v).astype(np.float32) for k, v in parameter_shapes(config).items()}
    save_params(traverse_util.unflatten_dict(params, sep="/"), tmp_path / to, to)
    fields, read = load_params(tmp_path / to, config)
    assert T5Config(**fields) == config
    assert_same(read, traverse_util.unflatten_dict(params, sep="/"))


@pytest.mark.parametrize("to", ["t5x", "orbax"])
def test_a_copy_gate_is_kept_and_is_none_of_transformers(tmp_path, to):
    config = T5Config(
        40, emb_dim=16, num_heads=2, head_dim=4, mlp_dim=24, num_encoder_layers=1,
        num_decoder_layers=1, copy_gate=True, copy_weights=True,
    )  # fmt: skip
    params = {name: np.ones(shape, np.float32) for name, shape in parameter_shapes(config).items()}
    save_params(traverse_util.unflatten_dict(params, sep="/"), tmp_path / to, to)
    assert T5Config(**open_weights(tmp_path / to).config) == config
    with pytest.raises(UserError, match="transformers has no T5 with a copy gate"):
        convert(tmp_path / to, tmp_path / "hf", "hf")
    assert not (tmp_path / "hf").exists()


def test_a_mismatch_names_the_first_parameter_and_both_shapes(tmp_path, tiny, tiny_model):
    save_params(tiny, tmp_path / "c", "t5x")
    config = tiny_model[0].config
    wider = T5Config(**{**vars(config), "mlp_dim": 48})
    with pytest.raises(
        UserError,
        match=r"decoder/layers_0/mlp/wi_0/kernel: shape \(16, 24\) in the checkpoint, "
        r"shape \(16, 48\) in the model",
    ):
        load_params(tmp_path / "c", wider)
    deeper = T5Config(**{**vars(config), "num_encoder_layers": 3})
    with pytest.raises(UserError, match=r"encoder/layers_2/.*: no such parameter in the checkp"):
        load_params(tmp_path / "c", deeper)
    other = T5Config(**{**vars(config), "mlp_activations": ("silu", "linear")})
    with pytest.raises(UserError, match="mlp_activations"):
        load_params(tmp_path / "c", other)


def vocabulary(rows):
    """A model with T5's vocabulary and little else."""
    config = T5Config(
        rows, emb_dim=2, num_heads=1, head_dim=2, mlp_dim=2,
        num_encoder_layers=1, num_decoder_layers=1,
    )  # fmt: skip
    stream = np.random.RandomState(0)
    params = {k: stream.rand(*v).astype(np.float32) for k, v in parameter_shapes(config).items()}
    return config, traverse_util.unflatten_dict(params, sep="/")


def test_padding_rows_are_cut_off_or_copy_the_padding_token(tmp_path, caplog):
    padded, params = vocabulary(32_128)
    real, _ = vocabulary(32_100)
    save_params(params, tmp_path / "padded", "t5x")
    fields, cut = load_params(tmp_path / "padded", real)
    assert "28 vocabulary rows cut off" in caplog.text
    assert fields["vocab_size"] == 32_100
    kernel = params["decoder"]["logits_dense"]["kernel"]
    np.testing.assert_array_equal(cut["decoder"]["logits_dense"]["kernel"], kernel[:, :32_100])
    save_params(cut, tmp_path / "real", "orbax")
    _, again = load_params(tmp_path / "real", padded)
    assert "28 vocabulary rows added" in caplog.text
    table, kernel = again["token_embedder"]["embedding"], again["decoder"]["logits_dense"]["kernel"]
    np.testing.assert_array_equal(table[:32_100], params["token_embedder"]["embedding"][:32_100])
    np.testing.assert_array_equal(kernel[:, 32_100:], np.repeat(kernel[:, :1], 28, axis=1))


def test_other_vocabularies_do_not_fit(tmp_path, tiny, tiny_model):
    save_params(tiny, tmp_path / "c", "t5x")
    config = T5Config(**{**vars(tiny_model[0].config), "vocab_size": 41})
    with pytest.raises(UserError, match=r"logits_dense/kernel: shape \(16, 40\)"):
        load_params(tmp_path / "c", config)
    with pytest.raises(UserError, match="has 40 vocabulary rows"):
        convert(tmp_path / "c", tmp_path / "out", "hf", vocab_size=32_128)


def test_the_newest_of_several_checkpoints_is_taken(tmp_path, tiny):
    for step in (2, 10):
        params = jax.tree.map(lambda x, step=step: np.full_like(x, step), tiny)
        save_params(params, tmp_path / f"run/checkpoint_{step}", "t5x")
        save_params(params, tmp_path / f"model/checkpoints/{step}", "orbax")
    for folder in ("run", "model"):
        assert set(
            np.unique(flat(load_params(tmp_path / folder)[1])["token_embedder/embedding"])
        ) == {10}


def test_parameters_within_a_train_state(tmp_path, tiny):
    import orbax.checkpoint as ocp

    state = {"params": tiny, "step": np.int32(3), "opt_state": {"count": np.zeros(2)}}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "7/state", state)
    assert_same(load_params(tmp_path / "7")[1], tiny)


def test_orbax_itself_reads_what_is_streamed_to_it(tmp_path, tiny):
    import orbax.checkpoint as ocp

    save_params(tiny, tmp_path / "c", "orbax")
    with ocp.StandardCheckpointer() as checkpointer:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), {"params": tiny})
        restored = checkpointer.restore(tmp_path / "c", like)
    assert_same(restored["params"], tiny)


def test_what_cannot_be_read_is_named(tmp_path, tiny):
    with pytest.raises(UserError, match="there is no checkpoint at"):
        open_weights(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a checkpoint: expected"):
        open_weights(tmp_path / "empty")
    save_params(tiny, tmp_path / "t5x", "t5x")
    shutil.rmtree(tmp_path / "t5x/target.token_embedder.embedding")
    with pytest.raises(UserError, match="no array for token_embedder/embedding"):
        open_weights(tmp_path / "t5x")
    (tmp_path / "t5x/checkpoint").write_bytes(b"\x81\xa3abc")
    with pytest.raises(UserError, match="is not a T5X checkpoint"):
        open_weights(tmp_path / "t5x")
    save_params(tiny, tmp_path / "hf", "hf")
    file = tmp_path / "hf/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="its header asks for"):
        open_weights(tmp_path / "hf")
    file.unlink()
    with pytest.raises(UserError, match=r"older folders have pytorch_model\.bin"):
        open_weights(tmp_path / "hf")
    (tmp_path / "hf/config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="model_type is 'bert'"):
        open_weights(tmp_path / "hf")


def test_a_parameter_too_many_is_named(tmp_path, tiny):
    save_params(tiny, tmp_path / "hf", "hf")
    path = hf.epath.Path(tmp_path / "hf/model.safetensors")
    tensors = safetensors.read(path)
    arrays = {name: Tensor.of(tensor.read()) for name, tensor in tensors.items()}
    safetensors.write(path, arrays | {"lora.weight": Tensor.of(np.zeros(3, np.float32))})
    with pytest.raises(UserError, match=r"an unknown parameter lora\.weight"):
        open_weights(tmp_path / "hf")


def test_nothing_is_overwritten(tmp_path, tiny):
    save_params(tiny, tmp_path / "c", "t5x")
    with pytest.raises(UserError, match="not empty"):
        convert(tmp_path / "c", tmp_path / "c", "hf")


@pytest.mark.parametrize("to", FORMATS)
def test_a_folder_of_any_name_is_read_and_a_pattern_is_not_written_to_by_orbax(tmp_path, tiny, to):
    save_params(tiny, tmp_path / "first", to)
    (tmp_path / "first").rename(tmp_path / "copy [1] of ü*")
    assert_same(load_params(tmp_path / "copy [1] of ü*")[1], tiny)
    if to == "orbax":
        with pytest.raises(UserError, match=r"since Orbax takes \[2\] for a pattern"):
            convert(tmp_path / "copy [1] of ü*", tmp_path / "[2]", to)
    else:
        convert(tmp_path / "copy [1] of ü*", tmp_path / "[2]", to)
        assert_same(load_params(tmp_path / "[2]")[1], tiny)


@pytest.mark.parametrize("to", FORMATS)
def test_what_ends_before_it_is_whole_leaves_an_empty_folder(tmp_path, tiny, to, monkeypatch):
    save_params(tiny, tmp_path / "first", "t5x")
    with monkeypatch.context() as full:
        write = FORMATS_BY_NAME[to].write

        def fail(*arguments):
            write(*arguments)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        full.setattr(FORMATS_BY_NAME[to], "write", fail)
        with pytest.raises(OSError, match="No space left"):
            convert(tmp_path / "first", tmp_path / "second", to)
    assert [*(tmp_path / "second").iterdir()] == []
    convert(tmp_path / "first", tmp_path / "second", to)
    assert_same(load_params(tmp_path / "second")[1], tiny)


@pytest.mark.parametrize("to", FORMATS)
def test_relative_paths_are_as_good_as_absolute_ones(tmp_path, tiny, to, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_params(tiny, "first", to)
    convert("first", "folder/second", to)
    assert_same(load_params("folder/second")[1], tiny)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_same(load_params("~/folder/second")[1], tiny)


@pytest.mark.parametrize("name", ["hf/model.safetensors", "hf/config.json", "t5x/checkpoint"])
def test_a_file_in_the_place_of_its_folder_is_told(tmp_path, tiny, name):
    for to in ("hf", "t5x"):
        save_params(tiny, tmp_path / to, to)
    with pytest.raises(UserError, match="is a file, but a checkpoint is a folder"):
        convert(tmp_path / name, tmp_path / "out", "orbax")


def moments(tiny):
    """What an optimiser keeps, under the parameters' names."""
    return {"opt_state": {"mu": jax.tree.map(np.zeros_like, tiny)}, "step": np.int32(3)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tiny: tiny,
        lambda tiny: {"params": tiny},
        lambda tiny: {"params": {"params": tiny}},
        lambda tiny: {"params": {"params": tiny}, **moments(tiny)},
        lambda tiny: {"state": {"params": tiny, **moments(tiny)}},
        lambda tiny: {"optimizer": {"target": tiny, "state": moments(tiny)}},
    ],
    ids=["bare", "params", "variables", "variables in a state", "state", "optimizer"],
)
def test_parameters_are_found_wherever_orbax_keeps_them(tmp_path, tiny, wrap):
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "c", wrap(tiny))
    assert_same(load_params(tmp_path / "c")[1], tiny)
    with ocp.PyTreeCheckpointer() as checkpointer:  # a manager of old, several steps
        for step in (9, 10):
            checkpointer.save(tmp_path / f"several/step_{step}", wrap(tiny))
    assert open_weights(tmp_path / "several").path.endswith("step_10")


@pytest.mark.parametrize("names", [("params",), ("opt_state", "params"), ("model", "extra")])
def test_parameters_as_an_item_of_a_composite(tmp_path, tiny, names):
    import orbax.checkpoint as ocp

    items = {name: {"mu": jax.tree.map(np.zeros_like, tiny)} for name in names}
    items[next(name for name in names if name in ("params", "model"))] = {"params": tiny}
    saved = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    with ocp.CheckpointManager(tmp_path / "c") as manager:
        manager.save(4, args=ocp.args.Composite(**saved))
    for path in (tmp_path / "c", tmp_path / "c/4"):
        assert_same(load_params(path)[1], tiny)


def test_what_orbax_keeps_beside_the_parameters_is_none(tmp_path, tiny):
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "c", moments(tiny))
    with pytest.raises(UserError, match="holds no T5 parameters"):
        open_weights(tmp_path / "c")


def test_running_out_of_memory_is_no_damage(tmp_path, tiny, monkeypatch):
    save_params(tiny, tmp_path / "c", "t5x")

    def read(path):
        raise MemoryError("32 GiB")

    monkeypatch.setattr(FORMATS_BY_NAME["t5x"], "read", read)
    with pytest.raises(MemoryError, match="32 GiB"):
        open_weights(tmp_path / "c")
