# ruff: noqa: D102 (`setup` declares the parts of a module, which its class describes)
"""SASRec: a causal transformer over item ids (Kang & McAuley, ICDM 2018, arXiv:1808.09781).

Trained with the full cross-entropy over the catalogue in place of the paper's one sampled negative,
which is most of the difference between weak and strong SASRec rows (Klenitskiy & Vasilev, RecSys
2023, arXiv:2309.07602). As in BERT4Rec, norms stand after the residual sums, the MLP is four times
as wide with GELU, and weights start from N(0, 0.02²).

Several sequences may share a row (see `packing.Packed`): attention stays within a sequence.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from recalign.engine.training.losses import token_cross_entropy
from recalign.evaluation.baselines.sasrec.packing import Packed

Array = jax.Array

_init = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class SASRecConfig:
    """The network's sizes.

    Attributes:
      num_items: N, the size of the catalogue.
      max_length: L, the longest sequence.
      dim: width of an item's vector, a multiple of `num_heads`.
      num_layers: blocks of attention and MLP.
      num_heads: attention heads.
      dropout: rate, on embeddings, attention weights and both branches of a block.
    """

    num_items: int
    max_length: int = 50
    dim: int = 128
    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.5


class Block(nn.Module):
    """Attention and MLP, each added to its input and then normalised."""

    config: SASRecConfig

    @nn.compact
    def __call__(self, x: Array, mask: Array, deterministic: bool) -> Array:
        """Maps float32[R, L, D] to the same; mask bool[R, 1, L, L], True where a key is seen."""
        config = self.config
        attended = nn.MultiHeadDotProductAttention(
            config.num_heads,
            dropout_rate=config.dropout,
            broadcast_dropout=False,
            kernel_init=_init,
            name="attention",
        )(x, mask=mask, deterministic=deterministic)
        dropout = nn.Dropout(config.dropout, deterministic=deterministic)
        x = nn.LayerNorm(name="attention_norm")(x + dropout(attended))
        wide = nn.gelu(nn.Dense(4 * config.dim, kernel_init=_init, name="wi")(x))
        narrow = nn.Dense(config.dim, kernel_init=_init, name="wo")(wide)
        return nn.LayerNorm(name="mlp_norm")(x + dropout(narrow))


class SASRec(nn.Module):
    """States of histories; an item's score is the product of its vector with the state."""

    config: SASRecConfig

    def setup(self):
        config = self.config
        self.items = nn.Embed(config.num_items, config.dim, embedding_init=_init)
        self.positions = nn.Embed(config.max_length, config.dim, embedding_init=_init)
        self.norm = nn.LayerNorm()
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = [Block(config) for _ in range(config.num_layers)]

    def __call__(self, packed: Packed, deterministic: bool = True) -> Array:
        """The state after every item: float32[R, L, D], of no meaning at padding."""
        x = self.norm(self.items(packed.items) + self.positions(packed.positions))
        x = self.dropout(x, deterministic=deterministic)
        same = packed.segments[:, None, :, None] == packed.segments[:, None, None, :]
        mask = jnp.tril(same)
        for block in self.blocks:
            x = block(x, mask, deterministic)
        return x

    def scores(self, states: Array) -> Array:
        """The scores float32[…, N] of all items after states float32[…, D]."""
        return self.items.attend(states)


def loss(
    module: SASRec, params: dict, packed: Packed, targets: Array, dropout: Array | None = None
) -> Array:
    """The mean over real positions of −log softmax(scores)[target], float32[].

    The logits of a batch, float32[R · L, N], are held twice in the backward pass.

    Args:
      module: the network.
      params: its parameters.
      packed: R rows.
      targets: int32[R, L], the item after each position; anything at padding.
      dropout: key; None for none.
    """
    rngs = None if dropout is None else {"dropout": dropout}
    states = module.apply({"params": params}, packed, dropout is None, rngs=rngs)
    logits = module.apply({"params": params}, states, method="scores")
    weights = packed.segments > 0
    return jnp.sum(token_cross_entropy(logits, targets)[0] * weights) / jnp.sum(weights)
