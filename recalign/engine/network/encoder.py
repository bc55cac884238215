# ruff: noqa: D102 (`setup` declares the parts of a module, which its class describes)
"""The encoder: its layer, and the stack of them. Shapes are those of `transformer`."""

from flax import linen as nn

from recalign.engine.network.config import T5Config
from recalign.engine.network.layer_stack import run_stack
from recalign.engine.network.layers import MLP, Array, Attention, RelativePositionBias, RMSNorm


class EncoderLayer(nn.Module):
    """Self-attention, then MLP, each normalised before and added to its input."""

    config: T5Config

    def setup(self):
        cfg = self.config
        self.pre_attention_layer_norm = RMSNorm(cfg.emb_dim, cfg.dtype)
        self.attention = Attention(cfg)
        self.pre_mlp_layer_norm = RMSNorm(cfg.emb_dim, cfg.dtype)
        self.mlp = MLP(cfg)
        self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

    def __call__(self, x: Array, mask: Array, bias: Array, deterministic: bool = True) -> Array:
        """[B,S,E] -> [B,S,E], under mask bool[B,1,S,S] and bias float32[1,H,S,S]."""
        h = self.pre_attention_layer_norm(x)
        h = self.attention(h, self.attention.keys_values(h), mask, bias, deterministic)
        x = x + self.dropout(h, deterministic=deterministic)
        h = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        return x + self.dropout(h, deterministic=deterministic)


class Encoder(nn.Module):
    """The encoder stack."""

    config: T5Config

    def setup(self):
        cfg = self.config
        self.relpos_bias = RelativePositionBias(cfg.num_heads, bidirectional=True)
        self.layers = [EncoderLayer(cfg) for _ in range(cfg.num_encoder_layers)]
        self.encoder_norm = RMSNorm(cfg.emb_dim, cfg.dtype)
        self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))
        self.final_dropout = nn.Dropout(cfg.dropout_rate)

    def __call__(self, x: Array, mask: Array, deterministic: bool = True) -> Array:
        """Embedded tokens [B,S,E], mask bool[B,1,S,S] -> [B,S,E]."""
        bias = self.relpos_bias(x.shape[1])
        x = self.dropout(x, deterministic=deterministic)

        def call(layer, x):
            return layer(x, mask, bias, deterministic)

        x = run_stack(self, call, x, deterministic)
        return self.final_dropout(self.encoder_norm(x), deterministic=deterministic)
