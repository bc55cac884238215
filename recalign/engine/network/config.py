"""The numbers that make a T5 a particular one, and the parameters that follow from them."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from recalign.errors import UserError, check_positive

Shapes = dict[str, tuple[int, ...]]

# What no configuration of ours changes.
RELATIVE_BUCKETS = 32
RELATIVE_MAX_DISTANCE = 128
NORM_EPSILON = 1e-6
ACTIVATIONS = (
    *("linear", "relu", "gelu", "silu", "swish", "sigmoid", "tanh", "elu", "celu", "selu", "relu6"),
    *("leaky_relu", "softplus", "soft_sign", "log_sigmoid"),
    *("hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh"),
)
_SIZES = (
    *("vocab_size", "emb_dim", "num_heads", "num_encoder_layers", "num_decoder_layers"),
    *("head_dim", "mlp_dim"),
)


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The architecture; field names are those of T5X's ``network.T5Config``.

    Attributes:
        vocab_size: rows of the embedding, padding rows included (32,128 in the public models).
        dtype: of activations, 'float32' or 'bfloat16'.
        emb_dim: width of the residual stream.
        num_heads: attention heads.
        num_encoder_layers: encoder depth.
        num_decoder_layers: decoder depth.
        head_dim: width of one head; heads × head_dim need not be emb_dim.
        mlp_dim: width of the hidden layer of each MLP.
        mlp_activations: of `ACTIVATIONS`, functions of `flax.linen` or 'linear'; their branches are
            multiplied.
        dropout_rate: everywhere, in training.
        logits_via_embedding: output projection tied to the embedding (T5 1.0).
        copy_gate: what stands in the question or the answer already gets a logit more or less, see
            `copying`; no T5 of others' has it.
        copy_weights: with a copy gate, each token of the question also has a number of its own.
        scan_layers: compile one layer of each stack and loop over them; changes no parameter's
            name, and no result but the draws of dropout.
        remat_policy: what the backward pass recomputes: 'none', 'minimal' (all but products with
            parameters) or 'full' (each layer from its input).
    """

    vocab_size: int
    dtype: str = "float32"
    emb_dim: int = 512
    num_heads: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    head_dim: int = 64
    mlp_dim: int = 2048
    mlp_activations: Sequence[str] = ("gelu", "linear")
    dropout_rate: float = 0.1
    logits_via_embedding: bool = False
    copy_gate: bool = False
    copy_weights: bool = False
    scan_layers: bool = False
    remat_policy: str = "none"

    def __post_init__(self):
        # A configuration file gives a list; a module's attributes must be hashable.
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        for name in _SIZES:
            check_positive(f"T5Config.{name}", getattr(self, name))
        if self.copy_weights and not self.copy_gate:
            raise UserError("T5Config.copy_weights = True needs T5Config.copy_gate = True")
        if not self.mlp_activations or not {*self.mlp_activations} <= {*ACTIVATIONS}:
            raise UserError(
                f"T5Config.mlp_activations is {self.mlp_activations}, but must be a list of some "
                f"of {', '.join(map(repr, ACTIVATIONS))}"
            )


def parameter_shapes(config: T5Config) -> Shapes:
    """Every parameter's shape by its name, 'encoder/layers_0/attention/query/kernel' and so on."""
    emb, joined = config.emb_dim, config.num_heads * config.head_dim
    wi = ["wi"] if len(config.mlp_activations) == 1 else None
    wi = wi or [f"wi_{i}" for i in range(len(config.mlp_activations))]
    mlp = {f"mlp/{name}/kernel": (emb, config.mlp_dim) for name in wi}
    mlp |= {"mlp/wo/kernel": (config.mlp_dim, emb), "pre_mlp_layer_norm/scale": (emb,)}

    def attention(name):
        shapes = {f"{name}/{part}/kernel": (emb, joined) for part in ("query", "key", "value")}
        return shapes | {f"{name}/out/kernel": (joined, emb)}

    layers = {
        "encoder": attention("attention") | mlp | {"pre_attention_layer_norm/scale": (emb,)},
        "decoder": {
            **attention("self_attention"),
            **attention("encoder_decoder_attention"),
            **mlp,
            "pre_self_attention_layer_norm/scale": (emb,),
            "pre_cross_attention_layer_norm/scale": (emb,),
        },
    }
    depth = {"encoder": config.num_encoder_layers, "decoder": config.num_decoder_layers}
    shapes: Shapes = {"token_embedder/embedding": (config.vocab_size, emb)}
    for stack in ("encoder", "decoder"):
        shapes[f"{stack}/relpos_bias/rel_embedding"] = (config.num_heads, RELATIVE_BUCKETS)
        shapes[f"{stack}/{stack}_norm/scale"] = (emb,)
        for i in range(depth[stack]):
            shapes |= {f"{stack}/layers_{i}/{k}": v for k, v in layers[stack].items()}
    if not config.logits_via_embedding:
        shapes["decoder/logits_dense/kernel"] = (emb, config.vocab_size)
    if config.copy_gate:
        shapes["copy_gate/kernel"] = (emb, 1)
    if config.copy_weights:
        shapes["copy_weights/kernel"] = (emb, 1)
    return shapes


def step_flops(config: T5Config, batch: int, source: int, target: int) -> float:
    """Multiply-adds × 2 of a training step of `batch` rows of so many tokens, padding included.

    Forward, and twice that backward; nothing is recomputed.
    """
    decoder = _decoder_products(config, source, target) + config.emb_dim * config.vocab_size
    return 6.0 * batch * (_encoder_products(config, source) + target * decoder)


def search_flops(
    config: T5Config,
    batch: int,
    source: int,
    widths: Sequence[int],
    logits: int,
    rankings: int = 1,
) -> float:
    """Multiply-adds × 2 of a search by the decoder: of the network, not of what chooses beams.

    Args:
        config: the architecture.
        batch: rows.
        source: length of the inputs, padding included.
        widths: how many prefixes a row has at each step.
        logits: of how many tokens they are computed.
        rankings: so many searches share a pass of the encoder.
    """
    steps = sum(
        width * (_decoder_products(config, source, position) + config.emb_dim * logits)
        for position, width in enumerate(widths, start=1)
    )
    return 2.0 * batch * (_encoder_products(config, source) + rankings * steps)


def _encoder_products(config: T5Config, source: int) -> int:
    """Multiply-adds of the encoder for a row, with its keys and values in the decoder's layers."""
    emb, joined = config.emb_dim, config.num_heads * config.head_dim
    layer = source * (4 * emb * joined + _mlp_products(config) + 2 * source * joined)
    return config.num_encoder_layers * layer + config.num_decoder_layers * source * 2 * emb * joined


def _decoder_products(config: T5Config, source: int, target: int) -> int:
    """Multiply-adds of the decoder for a position that sees `target` ones, without its logits."""
    emb, joined = config.emb_dim, config.num_heads * config.head_dim
    layer = 6 * emb * joined + _mlp_products(config) + 2 * (source + target) * joined
    return config.num_decoder_layers * layer


def _mlp_products(config: T5Config) -> int:
    return (len(config.mlp_activations) + 1) * config.emb_dim * config.mlp_dim


def recognise(shapes: Mapping[str, tuple[int, ...]], source: str) -> dict:
    """The fields of `T5Config` that a checkpoint's shapes determine.

    The shapes cannot tell which activations the MLP has: two branches are taken for a gated GELU
    (T5 1.1, FLAN-T5), one for a ReLU (T5 1.0).

    Args:
        shapes: by parameter name.
        source: the checkpoint, for the error.

    Raises:
        UserError: these are not the parameters of a T5; the first that is odd is named.
    """

    def shape(name):
        if name not in shapes:
            raise UserError(f"{source} is not a T5: it has no parameter {name}")
        return shapes[name]

    def depth(stack):
        found = {re.match(rf"{stack}/layers_(\d+)/", name) for name in shapes} - {None}
        return 1 + max((int(match[1]) for match in found), default=-1)

    gated = "encoder/layers_0/mlp/wi_0/kernel" in shapes
    vocabulary, emb = shape("token_embedder/embedding")
    heads = shape("encoder/relpos_bias/rel_embedding")[0]
    fields = {
        "vocab_size": vocabulary,
        "emb_dim": emb,
        "num_heads": heads,
        "num_encoder_layers": depth("encoder"),
        "num_decoder_layers": depth("decoder"),
        "head_dim": shape("encoder/layers_0/attention/query/kernel")[1] // heads,
        "mlp_dim": shape("encoder/layers_0/mlp/wo/kernel")[0],
        "mlp_activations": ("gelu", "linear") if gated else ("relu",),
        "logits_via_embedding": "decoder/logits_dense/kernel" not in shapes,
        "copy_gate": "copy_gate/kernel" in shapes,
        "copy_weights": "copy_weights/kernel" in shapes,
    }
    check_shapes(shapes, parameter_shapes(T5Config(**fields)), source)
    return fields


def check_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Raises a UserError that names the first parameter in which `source` differs."""
    for name in sorted(found.keys() | expected.keys()):
        has, wants = found.get(name), expected.get(name)
        if has != wants:
            has = "no such parameter" if has is None else f"shape {has}"
            wants = "no such parameter" if wants is None else f"shape {wants}"
            raise UserError(
                f"{source} does not fit the model: {name}: {has} in the checkpoint, "
                f"{wants} in the model"
            )
