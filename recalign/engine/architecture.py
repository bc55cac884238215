"""The numbers that make a T5 1.1 a particular one."""

import dataclasses
from collections.abc import Sequence


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
        mlp_activations: names in `flax.linen`, or 'linear'; their branches are multiplied.
        dropout_rate: everywhere, in training.
        logits_via_embedding: output projection tied to the embedding (T5 1.0).
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

    def __post_init__(self):
        # A configuration file gives a list; a module's attributes must be hashable.
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
