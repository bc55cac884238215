# ruff: noqa: D102 (`setup` declares the parts of a module, which its class describes)
"""The decoder: its layer, and the stack of them. Shapes are those of `transformer`.

A layer runs over whole targets, over one position with a cache of T5X's (`decode`), over one
position of all beams (`step`), or over what all beams begin with (`prefill`).
"""

import functools
import operator

import jax
import jax.numpy as jnp
from flax import linen as nn

from recalign.engine.network.config import T5Config
from recalign.engine.network.layer_stack import run_stack
from recalign.engine.network.layers import (
    MLP,
    Array,
    Attention,
    Dense,
    KeysValues,
    RelativePositionBias,
    RMSNorm,
    mask_pairs,
)


def _from(first: Array, length: int) -> Array:
    """bool[B,T]: which of `length` positions are at or after those of `first` int32[B]."""
    return jnp.arange(length) >= first[:, None]


class StepCache(nn.Module):
    """What later positions need of earlier ones, in the flax collection ``cache``.

    With a key and a value it is self-attention's, as T5X expects it. The first call creates the
    (empty) variables in the shapes that it is given; each later one takes one position. All leaves
    but ``cache_index`` have the batch first.
    """

    @nn.compact
    def __call__(self, **new: Array) -> tuple[tuple[Array, ...], Array | None]:
        """Returns what there is so far, [B,T,…] each, and the position just written (or None)."""
        live = self.has_variable("cache", "cache_index")
        kept = [
            self.variable("cache", f"cached_{name}", jnp.zeros, x.shape, x.dtype)
            for name, x in new.items()
        ]
        index = self.variable("cache", "cache_index", jnp.zeros, (), jnp.int32)
        if not live:
            return tuple(new.values()), None
        position = index.value
        for variable, x in zip(kept, new.values(), strict=True):
            if x.shape[1] != 1:
                raise ValueError(f"decode=True takes one position a call, got {x.shape[1]}")
            variable.value = jax.lax.dynamic_update_slice_in_dim(
                variable.value, x, position, axis=1
            )
        index.value = position + 1
        return tuple(variable.value for variable in kept), position


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder, then MLP."""

    config: T5Config

    def setup(self):
        cfg = self.config
        self.pre_self_attention_layer_norm = RMSNorm(cfg.emb_dim, cfg.dtype)
        self.self_attention = Attention(cfg)
        self.pre_cross_attention_layer_norm = RMSNorm(cfg.emb_dim, cfg.dtype)
        self.encoder_decoder_attention = Attention(cfg)
        self.pre_mlp_layer_norm = RMSNorm(cfg.emb_dim, cfg.dtype)
        self.mlp = MLP(cfg)
        self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))
        self.step_cache = StepCache()

    def __call__(
        self,
        x: Array,
        encoded: Array,
        self_mask: Array,
        cross_mask: Array,
        bias: Array,
        deterministic: bool = True,
        decode: bool = False,
    ) -> Array:
        """[B,L,E] on encoded [B,S,E], under masks bool[B,1,L,L] and [B,1,L,S] -> [B,L,E]."""
        h = self.pre_self_attention_layer_norm(x)
        keys_values = self.self_attention.keys_values(h)
        if decode:
            key, value = keys_values
            keys_values, position = self.step_cache(key=key, value=value)
            if position is not None:
                self_mask = jnp.arange(keys_values[0].shape[1]) <= position
                bias = jax.lax.dynamic_slice_in_dim(bias, position, 1, axis=2)
        h = self.self_attention(h, keys_values, self_mask, bias, deterministic)
        return self._finish(x, h, self.project_encoded(encoded), cross_mask, deterministic)

    def _finish(
        self,
        x: Array,
        attended: Array,
        cross_kv: KeysValues,
        cross_mask: Array,
        deterministic: bool = True,
    ) -> Array:
        """Adds what self-attention gave to x, both [B,L,E], and does the rest of the layer."""
        drop = functools.partial(self.dropout, deterministic=deterministic)
        x = x + drop(attended)
        h = self.pre_cross_attention_layer_norm(x)
        h = self.encoder_decoder_attention(h, cross_kv, cross_mask, deterministic=deterministic)
        x = x + drop(h)
        return x + drop(self.mlp(self.pre_mlp_layer_norm(x), deterministic))

    def project_encoded(self, encoded: Array) -> KeysValues:
        """[B,S,E] -> the keys and values that this layer's cross-attention reads, [B,S,H,D]."""
        return self.encoder_decoder_attention.keys_values(encoded)

    def step(
        self,
        x: Array,
        cache: KeysValues,
        position: Array,
        cross_kv: KeysValues,
        bias: Array,
        encoder_mask: Array,
        first: Array | None = None,
    ) -> tuple[Array, KeysValues]:
        """One position of K beams.

        Args:
            x: [B,K,E].
            cache: keys and values of earlier positions, [B,K,T,H,D] each.
            position: int32[], where this step writes.
            cross_kv: [B,S,H,D] each.
            bias: float32[1,H,1,T].
            encoder_mask: bool[B,S], True at real tokens.
            first: int32[B], where each example's first token is; None for 0.

        Returns:
            [B,K,E] and the cache with this position written.
        """
        batch, beams, length, *head = cache[0].shape
        written = jnp.arange(length) <= position
        if first is not None:
            written &= jnp.repeat(_from(first, length), beams, axis=0)[:, None, None, :]
        h = self.pre_self_attention_layer_norm(x).reshape(batch * beams, 1, -1)
        new = self.self_attention.keys_values(h)
        cache = tuple(
            jax.lax.dynamic_update_slice_in_dim(
                old, one.reshape(batch, beams, 1, *head), position, axis=2
            )
            for old, one in zip(cache, new, strict=True)
        )
        keys_values = tuple(c.reshape(batch * beams, length, *head) for c in cache)
        h = self.self_attention(h, keys_values, written, bias).reshape(x.shape)
        # Beams stand where a query's length does: one product reads each key for all of them.
        return self._finish(x, h, cross_kv, encoder_mask[:, None, None, :]), cache

    def prefill(
        self, x: Array, self_mask: Array, bias: Array, cross_kv: KeysValues, encoder_mask: Array
    ) -> tuple[Array, KeysValues]:
        """All P positions of one sequence an example, and their keys and values.

        Args:
            x: [B,P,E].
            self_mask: bool[B,1,P,P].
            bias: float32[1,H,P,P].
            cross_kv: as for `step`.
            encoder_mask: as for `step`.

        Returns:
            [B,P,E], and keys and values [B,P,H,D] each.
        """
        h = self.pre_self_attention_layer_norm(x)
        keys_values = self.self_attention.keys_values(h)
        h = self.self_attention(h, keys_values, self_mask, bias)
        return self._finish(x, h, cross_kv, encoder_mask[:, None, None, :]), keys_values


class Decoder(nn.Module):
    """The decoder stack and the output projection."""

    config: T5Config

    def setup(self):
        cfg = self.config
        self.relpos_bias = RelativePositionBias(cfg.num_heads, bidirectional=False)
        self.layers = [DecoderLayer(cfg) for _ in range(cfg.num_decoder_layers)]
        self.decoder_norm = RMSNorm(cfg.emb_dim, cfg.dtype)
        self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))
        if not cfg.logits_via_embedding:
            self.logits_dense = Dense(cfg.emb_dim, cfg.vocab_size, ("embed", "vocab"), cfg.dtype)

    def __call__(
        self,
        x: Array,
        encoded: Array,
        self_mask: Array,
        cross_mask: Array,
        bias_length: int,
        deterministic: bool = True,
        decode: bool = False,
    ) -> Array:
        """Embedded tokens [B,L,E] -> hidden states [B,L,E]."""
        bias = self.relpos_bias(bias_length)
        x = self.dropout(x, deterministic=deterministic)

        def call(layer, x):
            return layer(x, encoded, self_mask, cross_mask, bias, deterministic, decode)

        x = run_stack(self, call, x, deterministic, one_by_one=decode)
        return self.dropout(self.decoder_norm(x), deterministic=deterministic)

    def project_encoded(self, encoded: Array) -> dict[str, KeysValues]:
        """See `Transformer.project_encoded`."""
        return {
            f"layers_{i}": layer.project_encoded(encoded) for i, layer in enumerate(self.layers)
        }

    def step(self, x, cache, position, cross_kv, encoder_mask, first) -> tuple[Array, dict]:
        """See `Transformer.decode_step`; x is embedded, [B,K,E], and so is the result."""
        length = jax.tree.leaves(cache)[0].shape[2]
        bias = self.relpos_bias.at(position, length)
        new = {}
        for i, layer in enumerate(self.layers):
            name = f"layers_{i}"
            x, new[name] = layer.step(
                x, cache[name], position, cross_kv[name], bias, encoder_mask, first
            )
        return self.decoder_norm(x), new

    def prefill(self, x, first, cross_kv, encoder_mask) -> dict[str, KeysValues]:
        """See `Transformer.prefill`; x is embedded, [B,P,E]."""
        length = x.shape[1]
        steps = jnp.arange(length)[None]
        self_mask = mask_pairs(steps, steps, operator.ge) & _from(first, length)[:, None, None, :]
        bias = self.relpos_bias(length)
        cache = {}
        for i, layer in enumerate(self.layers):
            name = f"layers_{i}"
            x, new = layer.prefill(x, self_mask, bias, cross_kv[name], encoder_mask)
            cache[name] = tuple(part[:, None] for part in new)
        return cache
