"""T5 as Hugging Face's transformers stores it: config.json and safetensors, perhaps in shards.

Linear maps are stored [out, in] there and [in, out] here; the relative position bias is
[buckets, heads] there, belongs to the first layer of a stack, and is [heads, buckets] here.
"""

import json
import re
from typing import NamedTuple

from etils import epath

from recalign.engine.network.config import (
    NORM_EPSILON,
    RELATIVE_BUCKETS,
    RELATIVE_MAX_DISTANCE,
    recognise,
)
from recalign.engine.weights import safetensors
from recalign.engine.weights.tensor import Flat, Tensor
from recalign.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9

_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}
_FIXED = {
    "token_embedder/embedding": "shared.weight",
    "decoder/logits_dense/kernel": "lm_head.weight",
    "encoder/encoder_norm/scale": "encoder.final_layer_norm.weight",
    "decoder/decoder_norm/scale": "decoder.final_layer_norm.weight",
    "encoder/relpos_bias/rel_embedding": (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ),
    "decoder/relpos_bias/rel_embedding": (
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ),
}
HEAD, TABLE = "lm_head.weight", "shared.weight"
# Other names of the one table, of which transformers may store several or but one.
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# T5 1.0 stored it without ever reading it.
_UNREAD = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
# Names of the activation in config.json, beside those of `flax.linen`, whose gelu is the tanh
# approximation by default.
_ACTIVATIONS = {"gelu_new": "gelu", "relu": "relu", "silu": "silu"}
_GENERATION = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
# What config.json may say where the network knows one value only.
_CONSTANTS = {
    "is_encoder_decoder": True,
    "relative_attention_num_buckets": RELATIVE_BUCKETS,
    "relative_attention_max_distance": RELATIVE_MAX_DISTANCE,
    "layer_norm_epsilon": NORM_EPSILON,
    **_GENERATION,
    "quantization_config": None,
}
# What config.json says again of the parameters' shapes.
_SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "emb_dim",
    "d_kv": "head_dim",
    "d_ff": "mlp_dim",
    "num_heads": "num_heads",
    "num_layers": "num_encoder_layers",
    "num_decoder_layers": "num_decoder_layers",
}
# What transformers takes for granted where config.json is silent.
_DEFAULTS = {
    "t5": {"tie_word_embeddings": True, "feed_forward_proj": "relu"},
    "mt5": {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"},
}


def _layer_names(stack: str, gated: bool) -> dict[str, str]:
    """What follows 'layers_N/' here, and 'block.N.layer.' there."""
    blocks = [("attention", "SelfAttention", "pre_attention_layer_norm")]
    if stack == "decoder":
        blocks = [
            ("self_attention", "SelfAttention", "pre_self_attention_layer_norm"),
            ("encoder_decoder_attention", "EncDecAttention", "pre_cross_attention_layer_norm"),
        ]
    names = {}
    for i, (ours, theirs, norm) in enumerate(blocks):
        names[f"{norm}/scale"] = f"{i}.layer_norm.weight"
        for part, letter in _ATTENTION.items():
            names[f"{ours}/{part}/kernel"] = f"{i}.{theirs}.{letter}.weight"
    names["pre_mlp_layer_norm/scale"] = f"{len(blocks)}.layer_norm.weight"
    for part in ("wi_0", "wi_1", "wo") if gated else ("wi", "wo"):
        names[f"mlp/{part}/kernel"] = f"{len(blocks)}.DenseReluDense.{part}.weight"
    return names


def names(encoder_layers: int, decoder_layers: int, gated: bool, tied: bool) -> dict[str, str]:
    """From our parameter names to theirs."""
    pairs = dict(_FIXED)
    if tied:
        del pairs["decoder/logits_dense/kernel"]
    for stack, depth in (("encoder", encoder_layers), ("decoder", decoder_layers)):
        for i in range(depth):
            for ours, theirs in _layer_names(stack, gated).items():
                pairs[f"{stack}/layers_{i}/{ours}"] = f"{stack}.block.{i}.layer.{theirs}"
    return pairs


def _is_turned(name: str) -> bool:
    """Whether the parameter is stored transposed."""
    return name.endswith(("kernel", "rel_embedding"))


def is_checkpoint(path: epath.Path) -> bool:
    """Whether the folder is one of transformers'."""
    return (path / "config.json").exists()


def read(path: epath.Path) -> tuple[Flat, dict]:
    """The parameters under our names, and the fields of `T5Config`.

    Raises:
        UserError: no safetensors, not a T5, parameters too few or too many; or config.json says
            something that the parameters or the network contradict.
    """
    config = _config(path)
    tensors = _tensors(path)
    tensors.pop(_UNREAD, None)
    tensors = _without_copies(tensors, path)
    tensors = _with_head(tensors, config, path)
    tied, gated = HEAD not in tensors, any(name.endswith(".wi_0.weight") for name in tensors)
    pairs = names(_depth(tensors, "encoder"), _depth(tensors, "decoder"), gated, tied)
    odd = sorted(set(pairs.values()) ^ tensors.keys())
    if odd:
        kind = "no" if odd[0] not in tensors else "an unknown"
        raise UserError(f"{path} is not a T5: it has {kind} parameter {odd[0]}")
    flat = {
        ours: tensors[theirs].transposed if _is_turned(ours) else tensors[theirs]
        for ours, theirs in pairs.items()
    }
    fields = recognise({name: tensor.shape for name, tensor in flat.items()}, str(path))
    for theirs, ours in _SIZES.items():
        said = config.get(theirs)
        if said is None and theirs == "num_decoder_layers":
            said = config.get("num_layers")
        if said not in (None, fields[ours]):
            raise UserError(
                f"{path}/config.json says {theirs} = {said!r}, but its parameters {fields[ours]}"
            )
    return flat, fields | {"mlp_activations": _activations(config, gated, path)}


def _config(path: epath.Path) -> dict:
    """The content of config.json, which holds nothing that the network cannot do."""
    config = _read_json(path / "config.json")
    kind = config.get("model_type")
    if kind not in _DEFAULTS:
        raise UserError(f"{path}/config.json: model_type is {kind!r}, not t5")
    for name, value in _CONSTANTS.items():
        if config.get(name) not in (None, value):
            raise UserError(
                f"{path}/config.json says {name} = {config[name]}, where the network has {value}"
            )
    return _DEFAULTS[kind] | config


def _without_copies(tensors: Flat, path: epath.Path) -> Flat:
    """The tensors with the table under one name, whichever of its names were stored."""
    stored = [name for name in (TABLE, *_COPIES) if name in tensors]
    for name in stored[1:]:
        if not _same(tensors[stored[0]], tensors[name]):
            raise UserError(
                f"{path}: {name} is not {stored[0]}, where a T5 has one table for both stacks"
            )
    rest = {name: tensor for name, tensor in tensors.items() if name not in stored}
    return rest | {TABLE: tensors[stored[0]]} if stored else rest


def _with_head(tensors: Flat, config: dict, path: epath.Path) -> Flat:
    """The tensors with the output projection, if it is apart from the table.

    Up to transformers 4 tie_word_embeddings means a projection that is the table, scaled by
    1/sqrt(d_model). From 5 on that factor has a field of its own, and tie_word_embeddings says true
    whatever is stored.
    """
    tied = config["tie_word_embeddings"]
    scaled = config.get("scale_decoder_outputs", tied)
    table, head = tensors.get(TABLE), tensors.get(HEAD)
    if scaled and not tied:
        raise UserError(
            f"{path}/config.json says scale_decoder_outputs = true and tie_word_embeddings = false:"
            " the network scales only what is tied"
        )
    if scaled:
        if table and head and not _same(table, head):
            raise UserError(
                f"{path}/config.json says tie_word_embeddings = true, but {HEAD} is not {TABLE}: "
                "if the model was trained with a projection of its own, say false there"
            )
        rest = {name: tensor for name, tensor in tensors.items() if name != HEAD}
        return rest | {TABLE: table or head} if table or head else rest
    if not head and not tied:
        raise UserError(
            f"{path}/config.json says tie_word_embeddings = false, but there is no {HEAD}"
        )
    return tensors | {HEAD: head or table} if head or table else tensors


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same bit by bit."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return one.read().tobytes() == other.read().tobytes()


def _tensors(path: epath.Path) -> Flat:
    if (path / SINGLE).exists():  # which transformers takes where an index is there too
        files = {SINGLE}
    elif (path / INDEX).exists():
        files = _indexed(path / INDEX)
    else:
        raise UserError(
            f"{path} holds neither {SINGLE} nor {INDEX}; older folders have pytorch_model.bin: "
            "save the model again with transformers' save_pretrained"
        )
    tensors: Flat = {}
    for name in sorted(files):
        if not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise UserError(f"{path}/{INDEX} names {name!r}, which is no safetensors file in it")
        if not (path / name).exists():
            raise UserError(f"{path}/{INDEX} names {name}, which is not there")
        tensors |= safetensors.read(path / name)
    return tensors


def _indexed(index: epath.Path) -> set[str]:
    """The names of the files that an index of shards lists."""
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise UserError(f"{index} has no weight_map that names the file of each parameter")
    return set(shards.values())


def _depth(tensors: Flat, stack: str) -> int:
    matches = (re.match(rf"{stack}\.block\.(\d+)\.", name) for name in tensors)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def _activations(config: dict, gated: bool, path: epath.Path) -> tuple[str, ...]:
    """The activations of the MLP, of which config.json tells in two ways."""
    projection = config["feed_forward_proj"]
    name = projection.removeprefix("gated-")
    # So does transformers; other activations are called the same in both fields.
    name = "gelu_new" if projection == "gated-gelu" else name
    if projection.startswith("gated-") != gated:
        raise UserError(
            f"{path}/config.json says feed_forward_proj = {projection}, but its MLP has "
            f"{'two branches' if gated else 'one branch'}"
        )
    for field, implied in (("dense_act_fn", name), ("is_gated_act", gated)):
        if config.get(field) not in (None, implied):
            raise UserError(
                f"{path}/config.json says {field} = {config[field]}, but feed_forward_proj = "
                f"{projection}"
            )
    if name not in _ACTIVATIONS:
        raise UserError(
            f"{path}/config.json: the activation {name!r} is not one of {', '.join(_ACTIVATIONS)}"
        )
    return (_ACTIVATIONS[name], "linear") if gated else (_ACTIVATIONS[name],)


def check_writable(config: dict) -> None:
    """Raises a UserError if a network of these fields of `T5Config` is none of transformers."""
    if config["copy_gate"]:
        raise UserError(
            "transformers has no T5 with a copy gate: convert to t5x or orbax, or train with "
            "T5Config.copy_gate = False"
        )


class Descriptions(NamedTuple):
    """What a folder says beside its parameters: config.json and generation_config.json."""

    config: dict
    generation: dict


NOTHING_KEPT = Descriptions({}, _GENERATION)


def read_descriptions(path: epath.Path) -> Descriptions:
    """Those of a folder of transformers'; the second is T5's where there is none.

    Raises:
      UserError: one is no JSON object.
    """
    generation = path / "generation_config.json"
    return Descriptions(
        _read_json(path / "config.json"),
        _read_json(generation) if generation.exists() else _GENERATION,
    )


def _read_json(path: epath.Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object, but a {type(found).__name__}")
    return found


def write(
    path: epath.Path,
    tensors: Flat,
    config: dict,
    kept: Descriptions = NOTHING_KEPT,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes the folder; config.json, which makes it one, comes last.

    Args:
        path: the folder, which exists.
        tensors: under our names.
        config: fields of `T5Config`.
        kept: of the folder that they are from: what it says beyond the parameters (dropout, how to
            generate) is kept.
        shard_bytes: the largest file, unless one tensor is larger.
    """
    activation = config["mlp_activations"][0]
    gated = len(config["mlp_activations"]) > 1
    pairs = names(
        config["num_encoder_layers"],
        config["num_decoder_layers"],
        gated,
        config["logits_via_embedding"],
    )
    theirs = {
        pairs[name]: tensor.transposed if _is_turned(name) else tensor
        for name, tensor in tensors.items()
    }
    _write_tensors(path, dict(sorted(theirs.items())), shard_bytes)
    act = {ours: hf for hf, ours in _ACTIVATIONS.items()}[activation]
    _write_json(path / "generation_config.json", kept.generation)
    _write_json(
        path / "config.json",
        {
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "dropout_rate": 0.1,
            "initializer_factor": 1.0,
            "use_cache": True,
            **{name: value for name, value in _CONSTANTS.items() if value is not None},
            **kept.config,
            **{theirs: config[ours] for theirs, ours in _SIZES.items()},
            # What transformers calls gated-gelu is its tanh approximation, gelu_new.
            "feed_forward_proj": f"gated-{act.replace('gelu_new', 'gelu')}" if gated else act,
            "dense_act_fn": act,
            "is_gated_act": gated,
            "tie_word_embeddings": config["logits_via_embedding"],
            "torch_dtype": next(iter(tensors.values())).dtype.name,
        },
    )


def _write_tensors(path: epath.Path, tensors: Flat, shard_bytes: int) -> None:
    shards: list[Flat] = [{}]
    room = shard_bytes
    for name, tensor in tensors.items():
        if tensor.bytes > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = tensor
        room -= tensor.bytes
    if len(shards) == 1:
        safetensors.write(path / SINGLE, tensors)
        return
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        safetensors.write(path / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.bytes for tensor in tensors.values())
    _write_json(path / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_json(path: epath.Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
