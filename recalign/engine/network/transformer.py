# ruff: noqa: D102 (`setup` declares the parts of a module, which its class describes)
"""T5 1.1 as a Flax module with T5X's parameter names, shapes and call signatures.

The architecture is that of T5 (Raffel et al., JMLR 2020, arXiv:1910.10683) in its version 1.1:
RMS normalisation before each block, gated GELU, no biases, one relative position bias for each
stack, an output projection apart from the embedding, and attention without the 1/sqrt(d) factor,
which the initial query kernels absorb instead.

Besides the teacher-forced pass there are two ways to decode: the flax ``cache`` collection that
T5X's own beam search drives (``decode=True``), and ``project_encoded`` + ``decode_step``, pure
functions of arrays in which all beams of an example share one set of encoder keys and values.

Shapes: B batch, L or Q or S lengths (decoder, query, encoder), K beams, T cache length,
E ``emb_dim``, H ``num_heads``, D ``head_dim``, V ``vocab_size``.
"""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recalign.engine.network.config import T5Config
from recalign.engine.network.layer_stack import run_layers
from recalign.engine.network.layers import (
    MLP,
    Array,
    Attention,
    Dense,
    Embedding,
    KeysValues,
    RelativePositionBias,
    RMSNorm,
    wide_einsum,
)

__all__ = ["T5Config", "Transformer"]


def _pairs(query: Array, key: Array, relation=operator.eq) -> Array:
    """bool[B,1,Q,S]: `relation` of every query's value [B,Q] with every key's [B,S]."""
    return relation(query[:, None, :, None], key[:, None, None, :])


def _from(first: Array, length: int) -> Array:
    """bool[B,T]: which of `length` positions are at or after those of `first` int32[B]."""
    return jnp.arange(length) >= first[:, None]


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


class StepCache(nn.Module):
    """Self-attention keys and values in the flax collection ``cache``, as T5X expects them.

    The first call creates the (empty) variables in the shape that it is given; each later one
    takes one position. All leaves but ``cache_index`` have the batch first.
    """

    @nn.compact
    def __call__(self, key: Array, value: Array) -> tuple[KeysValues, Array | None]:
        """Returns keys and values [B,T,H,D] so far, and the position just written (or None)."""
        live = self.has_variable("cache", "cached_key")
        keys = self.variable("cache", "cached_key", jnp.zeros, key.shape, key.dtype)
        values = self.variable("cache", "cached_value", jnp.zeros, value.shape, value.dtype)
        index = self.variable("cache", "cache_index", jnp.zeros, (), jnp.int32)
        if not live:
            return (key, value), None
        if key.shape[1] != 1:
            raise ValueError(f"decode=True takes one position a call, got {key.shape[1]}")
        position = index.value
        keys.value = jax.lax.dynamic_update_slice_in_dim(keys.value, key, position, axis=1)
        values.value = jax.lax.dynamic_update_slice_in_dim(values.value, value, position, axis=1)
        index.value = position + 1
        return (keys.value, values.value), position


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
        drop = functools.partial(self.dropout, deterministic=deterministic)
        h = self.pre_self_attention_layer_norm(x)
        keys_values = self.self_attention.keys_values(h)
        if decode:
            keys_values, position = self.step_cache(*keys_values)
            if position is not None:
                self_mask = jnp.arange(keys_values[0].shape[1]) <= position
                bias = jax.lax.dynamic_slice_in_dim(bias, position, 1, axis=2)
        h = self.self_attention(h, keys_values, self_mask, bias, deterministic)
        x = x + drop(h)
        h = self.pre_cross_attention_layer_norm(x)
        keys_values = self.project_encoded(encoded)
        h = self.encoder_decoder_attention(h, keys_values, cross_mask, deterministic=deterministic)
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
        h = self.self_attention(h, keys_values, written, bias)
        x = x + h.reshape(x.shape)
        # Beams stand where a query's length does: one product reads each key for all of them.
        h = self.pre_cross_attention_layer_norm(x)
        x = x + self.encoder_decoder_attention(h, cross_kv, encoder_mask[:, None, None, :])
        return x + self.mlp(self.pre_mlp_layer_norm(x)), cache

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
        x = x + self.self_attention(h, keys_values, self_mask, bias)
        h = self.pre_cross_attention_layer_norm(x)
        x = x + self.encoder_decoder_attention(h, cross_kv, encoder_mask[:, None, None, :])
        return x + self.mlp(self.pre_mlp_layer_norm(x)), keys_values


def _run(stack, call, x: Array, deterministic: bool, one_by_one: bool = False) -> Array:
    """Sends x [B,L,E] through the layers of a stack, as its configuration wants it."""
    cfg = stack.config
    # Layers that make variables, parameters at first or a cache, cannot be pure functions.
    if one_by_one or stack.is_initializing():
        return run_layers(stack.layers, call, x, None, dtype=cfg.dtype)
    no_dropout = deterministic or not cfg.dropout_rate
    return run_layers(
        stack.layers,
        call,
        x,
        None if no_dropout else stack.make_rng("dropout"),
        dtype=cfg.dtype,
        scan=cfg.scan_layers,
        remat_policy=cfg.remat_policy,
    )


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

        x = _run(self, call, x, deterministic)
        return self.final_dropout(self.encoder_norm(x), deterministic=deterministic)


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

        x = _run(self, call, x, deterministic, one_by_one=decode)
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
        self_mask = _pairs(steps, steps, operator.ge) & _from(first, length)[:, None, None, :]
        bias = self.relpos_bias(length)
        cache = {}
        for i, layer in enumerate(self.layers):
            name = f"layers_{i}"
            x, new = layer.prefill(x, self_mask, bias, cross_kv[name], encoder_mask)
            cache[name] = tuple(part[:, None] for part in new)
        return cache


class Transformer(nn.Module):
    """T5: what T5X's ``EncoderDecoderModel`` takes as its ``module``."""

    config: T5Config

    def setup(self):
        self.token_embedder = Embedding(self.config)
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def __call__(
        self,
        encoder_input_tokens: Array,
        decoder_input_tokens: Array,
        decoder_target_tokens: Array,
        encoder_segment_ids: Array | None = None,
        decoder_segment_ids: Array | None = None,
        encoder_positions: Array | None = None,
        decoder_positions: Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
    ) -> Array:
        """Teacher-forced logits, float32[B,L,V].

        Args:
            encoder_input_tokens: int[B,S], 0 is padding.
            decoder_input_tokens: int[B,L], the targets shifted right.
            decoder_target_tokens: int[B,L]; only says where there is padding.
            encoder_segment_ids: int[B,S], for packed examples.
            decoder_segment_ids: int[B,L], for packed examples.
            encoder_positions: int[B,S]; unused, since positions are relative.
            decoder_positions: int[B,L]; unused likewise.
            enable_dropout: needs the 'dropout' random stream.
            decode: also creates the collection 'cache' for L positions.
        """
        del encoder_positions
        encoded = self.encode(
            encoder_input_tokens, encoder_segment_ids, enable_dropout=enable_dropout
        )
        return self.decode(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            decoder_target_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            decoder_positions,
            enable_dropout=enable_dropout,
            decode=decode,
        )

    def encode(
        self,
        encoder_input_tokens: Array,
        encoder_segment_ids: Array | None = None,
        enable_dropout: bool = True,
    ) -> Array:
        """int[B,S] -> [B,S,E] in the activations' dtype."""
        real = encoder_input_tokens > 0
        mask = _pairs(real, real, operator.and_)
        if encoder_segment_ids is not None:
            mask &= _pairs(encoder_segment_ids, encoder_segment_ids)
        x = self.token_embedder(encoder_input_tokens)
        return self.encoder(x, mask, deterministic=not enable_dropout)

    def decode(
        self,
        encoded: Array,
        encoder_input_tokens: Array,
        decoder_input_tokens: Array,
        decoder_target_tokens: Array,
        encoder_segment_ids: Array | None = None,
        decoder_segment_ids: Array | None = None,
        decoder_positions: Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
    ) -> Array:
        """Logits float32[B,L,V] of the decoder on `encoded` [B,S,E].

        With `decode` and a live 'cache' collection, L is 1 and `max_decode_length` the length
        that the cache was made with.
        """
        del decoder_positions
        if decode and encoder_segment_ids is not None:
            raise ValueError("packed examples (encoder_segment_ids) cannot be decoded")
        real = jnp.ones_like(decoder_target_tokens) > 0 if decode else decoder_target_tokens > 0
        steps = jnp.arange(decoder_input_tokens.shape[1])[None]
        self_mask = _pairs(steps, steps, operator.ge) & _pairs(real, real, operator.and_)
        if decoder_segment_ids is not None:
            self_mask &= _pairs(decoder_segment_ids, decoder_segment_ids)
        cross_mask = _pairs(real, encoder_input_tokens > 0, operator.and_)
        if encoder_segment_ids is not None:
            cross_mask &= _pairs(decoder_segment_ids, encoder_segment_ids)
        hidden = self.decoder(
            self.token_embedder(decoder_input_tokens),
            encoded,
            self_mask,
            cross_mask,
            bias_length=max_decode_length if decode and max_decode_length else steps.size,
            deterministic=not enable_dropout,
            decode=decode,
        )
        return self.logits(hidden)

    def logits(self, hidden: Array, tokens: Array | None = None) -> Array:
        """Output logits of hidden states [...,E], float32[...,V].

        Args:
            hidden: the decoder's final states, [...,E].
            tokens: int[N], a subset of the vocabulary; the logits are then [...,N], in its order.
        """
        cfg = self.config
        if cfg.logits_via_embedding:
            kernel = self.token_embedder.embedding.T / np.sqrt(cfg.emb_dim)
        else:
            kernel = self.decoder.logits_dense.kernel
        if tokens is not None:
            kernel = jnp.take(kernel, tokens, axis=1)
        # Factors in the activations' dtype, sums in float32: a TPU rounds the factors anyway. A
        # product of matrices, for the reason that `layers.Dense` gives.
        rows = hidden.reshape(-1, cfg.emb_dim)
        logits = wide_einsum("ne,ev->nv", rows, kernel.astype(rows.dtype))
        return logits.reshape(*hidden.shape[:-1], kernel.shape[1])

    def project_encoded(self, encoded: Array) -> dict[str, KeysValues]:
        """Encoder keys and values of each decoder layer, computed once for all beams and steps.

        Args:
            encoded: [B,S,E].

        Returns:
            {'layers_0': (keys [B,S,H,D], values [B,S,H,D]), …}.
        """
        return self.decoder.project_encoded(encoded)

    @nn.nowrap
    def empty_cache(self, batch: int, beams: int, length: int) -> dict[str, KeysValues]:
        """The cache before the first `decode_step`; every leaf is [B,K,T,H,D]."""
        cfg = self.config
        shape = (batch, beams, length, cfg.num_heads, cfg.head_dim)
        return {
            f"layers_{i}": (jnp.zeros(shape, cfg.dtype), jnp.zeros(shape, cfg.dtype))
            for i in range(cfg.num_decoder_layers)
        }

    def decode_step(
        self,
        tokens: Array,
        cache: dict[str, KeysValues],
        position: Array,
        cross_kv: dict[str, KeysValues],
        encoder_mask: Array,
        first: Array | None = None,
        return_hidden: bool = False,
    ) -> tuple[Array, dict[str, KeysValues]]:
        """One decoding step for all beams.

        Args:
            tokens: int32[B,K], the decoder's input at `position` (0, the start token, at first).
            cache: from `empty_cache`, `prefill` or the step before.
            position: int32[], the same for all beams.
            cross_kv: from `project_encoded`.
            encoder_mask: bool[B,S], True at real tokens.
            first: int32[B], the position of each example's start token, where they differ; what
                the cache holds before it is not looked at. Positions are relative, so that a
                later start changes nothing.
            return_hidden: give the hidden states instead, for `logits` on fewer tokens.

        Returns:
            logits float32[B,K,V] (or hidden states [B,K,E]) and the new cache.
        """
        x, cache = self.decoder.step(
            self.token_embedder(tokens), cache, position, cross_kv, encoder_mask, first
        )
        return (x if return_hidden else self.logits(x)), cache

    def prefill(
        self, tokens: Array, first: Array, cross_kv: dict[str, KeysValues], encoder_mask: Array
    ) -> dict[str, KeysValues]:
        """The cache after P given tokens of one hypothesis, in one pass.

        Args:
            tokens: int32[B,P], the decoder's inputs at positions 0 … P-1; each example's own ones
                stand at the end.
            first: int32[B], where they begin; P if there are none.
            cross_kv: from `project_encoded`.
            encoder_mask: bool[B,S], True at real tokens.

        Returns:
            As from `empty_cache`, [B,1,P,H,D]; `decode_step` goes on at position P.
        """
        return self.decoder.prefill(self.token_embedder(tokens), first, cross_kv, encoder_mask)
