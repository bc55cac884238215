# ruff: noqa: D102 (`setup` declares the parts of a module, which its class describes)
"""SASRec: a causal transformer over item ids (Kang & McAuley, ICDM 2018, arXiv:1808.09781).

Trained with the full cross-entropy over the catalogue in place of the paper's one sampled negative,
which is most of the difference between weak and strong SASRec rows (Klenitskiy & Vasilev, RecSys
2023, arXiv:2309.07602). As in BERT4Rec, norms stand after the residual sums, the MLP is four times
as wide with GELU, and weights start from N(0, 0.02²).

BSARec (Shin et al., AAAI 2024, arXiv:2312.10325) has a low-pass filter beside the attention of each
block, see `LowPass`. The filter looks ahead, so that only the last state of a sequence may be asked
for its next item.

Several sequences may share a row (see `packing.Packed`): attention and filter stay within one.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
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
      newest_first: positions are counted from the newest item, as where sequences are padded on the
        left, instead of from the oldest.
      low_pass: c, of BSARec: frequencies −⌊c/2⌋ … ⌊c/2⌋ are low; 0 is SASRec, without a filter.
      filter_share: α, the filter's share in a block; attention has the rest.
    """

    num_items: int
    max_length: int = 50
    dim: int = 128
    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.5
    newest_first: bool = False
    low_pass: int = 0
    filter_share: float = 0.7


def low_pass_kernel(length: int, low_pass: int) -> np.ndarray:
    """What `LowPass` convolves a sequence with, float32[length], circularly."""
    kept = np.arange(length // 2 + 1) <= low_pass // 2
    return np.fft.irfft(kept.astype(float), length).astype(np.float32)


class LowPass(nn.Module):
    """What is slow in a sequence, and what is fast by a learned factor: low + β² · (x − low).

        low = irfft(rfft(x) with the frequencies above ⌊c/2⌋ set to 0)

    over the L positions, where a shorter sequence is padded with zeros. As a product with the
    circulant matrix of that filter it depends on the distances within a sequence alone, wherever in
    a row it stands. β is a number for each of the D channels.
    """

    config: SASRecConfig

    @nn.compact
    def __call__(self, x: Array, same: Array) -> Array:
        """Maps float32[R, L, D] to the same; same bool[R, L, L], True within a sequence."""
        config = self.config
        kernel = low_pass_kernel(config.max_length, config.low_pass)
        places = np.arange(config.max_length)
        circulant = kernel[(places[:, None] - places) % config.max_length]
        low = jnp.einsum("rij,rjd->rid", jnp.where(same, circulant, 0), x)
        beta = self.param("beta", nn.initializers.normal(1.0), (config.dim,))
        return low + beta**2 * (x - low)


class Block(nn.Module):
    """Attention, beside it BSARec's filter, and MLP, each added to its input and normalised."""

    config: SASRecConfig

    @nn.compact
    def __call__(self, x: Array, same: Array, deterministic: bool) -> Array:
        """Maps float32[R, L, D] to the same; same bool[R, 1, L, L], True within a sequence."""
        config = self.config
        attended = nn.MultiHeadDotProductAttention(
            config.num_heads,
            dropout_rate=config.dropout,
            broadcast_dropout=False,
            kernel_init=_init,
            name="attention",
        )(x, mask=jnp.tril(same), deterministic=deterministic)
        dropout = nn.Dropout(config.dropout, deterministic=deterministic)
        mixed = nn.LayerNorm(name="attention_norm")(x + dropout(attended))
        if config.low_pass:
            filtered = LowPass(config, name="filter")(x, same[:, 0])
            filtered = nn.LayerNorm(name="filter_norm")(x + dropout(filtered))
            mixed = config.filter_share * filtered + (1 - config.filter_share) * mixed
        x = mixed
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
        for block in self.blocks:
            x = block(x, same, deterministic)
        return x

    def scores(self, states: Array) -> Array:
        """The scores float32[…, N] of all items after states float32[…, D]."""
        return self.items.attend(states)


def loss(
    module: SASRec,
    params: dict,
    packed: Packed,
    targets: Array,
    dropout: Array | None = None,
    places: Array | None = None,
) -> Array:
    """The mean of −log softmax(scores)[target], float32[], over real positions or some of them.

    The logits of a batch, float32[R · L, N] or [T, N], are held twice in the backward pass.

    Args:
      module: the network.
      params: its parameters.
      packed: R rows.
      targets: int32[R, L], the item after each position, anything at padding; or int32[T].
      dropout: key; None for none.
      places: int32[T, 2], row and column of the positions that are asked, −1 for none; None asks
        all.
    """
    rngs = None if dropout is None else {"dropout": dropout}
    states = module.apply({"params": params}, packed, dropout is None, rngs=rngs)
    weights = packed.segments > 0
    if places is not None:
        states, weights = states[places[:, 0], places[:, 1]], places[:, 0] >= 0
    logits = module.apply({"params": params}, states, method="scores")
    return jnp.sum(token_cross_entropy(logits, targets)[0] * weights) / jnp.sum(weights)
