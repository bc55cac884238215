"""T5 as Hugging Face's transformers stores it: config.json and safetensors, perhaps in shards.

Linear maps are stored [out, in] there and [in, out] here; the relative position bias is
[buckets, heads] there, belongs to the first layer of a stack, and is [heads, buckets] here.
"""

import json
import re

from etils import epath

from recalign.engine.weights import safetensors
from recalign.engine.weights.tensor import Flat
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
# Copies of shared.weight, and a table that T5 1.0 stored without ever reading it.
_IGNORED = {
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
}
# Names of the activation in config.json, beside those of `flax.linen`, whose gelu is the tanh
# approximation by default.
_ACTIVATIONS = {"gelu_new": "gelu", "relu": "relu", "silu": "silu"}


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


def _turned(name: str) -> bool:
    """Whether the parameter is stored transposed."""
    return name.endswith(("kernel", "rel_embedding"))


def found(path: epath.Path) -> bool:
    """Whether the folder is one of transformers'."""
    return (path / "config.json").exists()


def read(path: epath.Path) -> tuple[Flat, dict]:
    """The parameters under our names, and what config.json tells beyond their shapes.

    Raises:
        UserError: no safetensors, not a T5, or parameters too few or too many.
    """
    config = json.loads((path / "config.json").read_text())
    if config.get("model_type") not in ("t5", "mt5"):
        raise UserError(f"{path}/config.json: model_type is {config.get('model_type')!r}, not t5")
    tensors = _tensors(path)
    tied = "lm_head.weight" not in tensors
    gated = any(name.endswith(".wi_0.weight") for name in tensors)
    pairs = names(_depth(tensors, "encoder"), _depth(tensors, "decoder"), gated, tied)
    odd = sorted(set(pairs.values()) ^ (tensors.keys() - _IGNORED))
    if odd:
        kind = "no" if odd[0] not in tensors else "an unknown"
        raise UserError(f"{path} is not a T5: it has {kind} parameter {odd[0]}")
    flat = {
        ours: tensors[theirs].transposed if _turned(ours) else tensors[theirs]
        for ours, theirs in pairs.items()
    }
    return flat, {"mlp_activations": _activations(config, gated, path)}


def _tensors(path: epath.Path) -> Flat:
    if (path / INDEX).exists():
        files = set(json.loads((path / INDEX).read_text())["weight_map"].values())
    elif (path / SINGLE).exists():
        files = {SINGLE}
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


def _depth(tensors: Flat, stack: str) -> int:
    matches = (re.match(rf"{stack}\.block\.(\d+)\.", name) for name in tensors)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def _activations(config: dict, gated: bool, path: epath.Path) -> tuple[str, ...]:
    name = config.get("dense_act_fn")
    if name is None:  # before transformers 4.21 only this field was there
        name = config.get("feed_forward_proj", "relu").removeprefix("gated-")
        name = "gelu_new" if (name, gated) == ("gelu", True) else name
    if name not in _ACTIVATIONS:
        raise UserError(
            f"{path}/config.json: the activation {name!r} is not one of {', '.join(_ACTIVATIONS)}"
        )
    return (_ACTIVATIONS[name], "linear") if gated else (_ACTIVATIONS[name],)


def write(path: epath.Path, tensors: Flat, config: dict, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes the folder; config.json, which makes it one, comes last.

    Args:
        path: the folder, which exists.
        tensors: under our names.
        config: fields of `T5Config`.
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
        pairs[name]: tensor.transposed if _turned(name) else tensor
        for name, tensor in tensors.items()
    }
    _write_tensors(path, dict(sorted(theirs.items())), shard_bytes)
    act = {ours: hf for hf, ours in _ACTIVATIONS.items()}[activation]
    _write_json(path / "generation_config.json", _generation())
    _write_json(
        path / "config.json",
        {
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "is_encoder_decoder": True,
            "vocab_size": config["vocab_size"],
            "d_model": config["emb_dim"],
            "d_kv": config["head_dim"],
            "d_ff": config["mlp_dim"],
            "num_heads": config["num_heads"],
            "num_layers": config["num_encoder_layers"],
            "num_decoder_layers": config["num_decoder_layers"],
            # transformers reads "gated-gelu" as its tanh approximation, gelu_new
            "feed_forward_proj": ("gated-" if gated else "") + act.replace("gelu_new", "gelu"),
            "dense_act_fn": act,
            "is_gated_act": gated,
            "tie_word_embeddings": config["logits_via_embedding"],
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
            "layer_norm_epsilon": 1e-6,
            "dropout_rate": config.get("dropout_rate", 0.1),
            "initializer_factor": 1.0,
            "torch_dtype": next(iter(tensors.values())).dtype.name,
            "use_cache": True,
            **_generation(),
        },
    )


def _generation() -> dict:
    return {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


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
    path.write_text(json.dumps(content, indent=2) + "\n")
