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

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recalign.engine.network.config import T5Config
from recalign.engine.network.copying import add_up, find_present, see_before
from recalign.engine.network.decoder import Decoder, StepCache
from recalign.engine.network.encoder import Encoder
from recalign.engine.network.layers import (
    Array,
    Dense,
    Embedding,
    mask_pairs,
    wide_einsum,
)

__all__ = ["T5Config", "Transformer"]

Cache = dict[str, Any]
CrossStates = dict[str, Any]
TOKENS = "tokens"
"""The entry of a cache that holds the answer so far, for the copy gate."""


class Transformer(nn.Module):
    """T5: what T5X's ``EncoderDecoderModel`` takes as its ``module``."""

    config: T5Config

    def setup(self):
        self.token_embedder = Embedding(self.config)
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        if self.config.copy_gate:
            self.copy_gate = Dense(self.config.emb_dim, 1, ("embed", "copy"), "float32")
            self.token_cache = StepCache()
        if self.config.copy_weights:
            self.copy_weights = Dense(self.config.emb_dim, 1, ("embed", "copy"), "float32")

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
        mask = mask_pairs(real, real, operator.and_)
        if encoder_segment_ids is not None:
            mask &= mask_pairs(encoder_segment_ids, encoder_segment_ids)
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
        self_mask = mask_pairs(steps, steps, operator.ge) & mask_pairs(real, real, operator.and_)
        if decoder_segment_ids is not None:
            self_mask &= mask_pairs(decoder_segment_ids, decoder_segment_ids)
        cross_mask = mask_pairs(real, encoder_input_tokens > 0, operator.and_)
        if encoder_segment_ids is not None:
            cross_mask &= mask_pairs(decoder_segment_ids, encoder_segment_ids)
        hidden = self.decoder(
            self.token_embedder(decoder_input_tokens),
            encoded,
            self_mask,
            cross_mask,
            bias_length=max_decode_length if decode and max_decode_length else steps.size,
            deterministic=not enable_dropout,
            decode=decode,
        )
        if not self.config.copy_gate:
            return self._logits(hidden)
        if decode:
            (answer,), _ = self.token_cache(tokens=decoder_input_tokens)
            before = jnp.concatenate([encoder_input_tokens, answer], axis=-1)[:, None]
        else:
            segments = (encoder_segment_ids, decoder_segment_ids)
            before = see_before(encoder_input_tokens, decoder_input_tokens, *segments)
        return self._logits(hidden, before, self._weigh(encoded))

    def _weigh(self, encoded: Array) -> Array | None:
        """The weight of each token of the question, float32[B,S], if they have one."""
        return self.copy_weights(encoded)[..., 0] if self.config.copy_weights else None

    def _logits(
        self,
        hidden: Array,
        before: Array | None = None,
        weights: Array | None = None,
        alphabet: Array | None = None,
    ) -> Array:
        """Output logits of hidden states [...,E], float32[...,V].

        Args:
            hidden: the decoder's final states, [...,E].
            before: int[B,...,N], the tokens that the copy gate is for, if there is one; 0 is none.
            weights: float32[B,S], `copy_weights` of the first S of these, if they have any.
            alphabet: int[A], a part of the vocabulary; the logits are then [...,A], in its order.
        """
        cfg = self.config
        if cfg.logits_via_embedding:
            kernel = self.token_embedder.embedding.T / np.sqrt(cfg.emb_dim)
        else:
            kernel = self.decoder.logits_dense.kernel
        if alphabet is not None:
            kernel = jnp.take(kernel, alphabet, axis=1)
        # Factors in the activations' dtype, sums in float32: a TPU rounds the factors anyway. A
        # product of matrices, for the reason that `layers.Dense` gives.
        rows = hidden.reshape(-1, cfg.emb_dim)
        logits = wide_einsum("ne,ev->nv", rows, kernel.astype(rows.dtype))
        logits = logits.reshape(*hidden.shape[:-1], kernel.shape[1])
        if before is None:
            return logits

        def choose(of_all: Array) -> Array:
            return of_all if alphabet is None else jnp.take(of_all, alphabet, axis=-1)

        copied = self.copy_gate(hidden) * choose(find_present(before, cfg.vocab_size))
        if weights is not None:
            question = before[..., : weights.shape[-1]]
            spread = jnp.broadcast_to(weights[:, None], question.shape)
            copied += choose(add_up(spread, question, cfg.vocab_size))
        return logits + copied

    def project_encoded(self, encoded: Array) -> CrossStates:
        """Encoder keys and values of each decoder layer, computed once for all beams and steps.

        Args:
            encoded: [B,S,E].

        Returns:
            {'layers_0': (keys [B,S,H,D], values [B,S,H,D]), …}, and where the network has them
            'copy_weights' float32[B,S].
        """
        projected = self.decoder.project_encoded(encoded)
        weights = self._weigh(encoded)
        return projected if weights is None else {**projected, "copy_weights": weights}

    @nn.nowrap
    def empty_cache(self, batch: int, beams: int, length: int) -> Cache:
        """The cache before the first `decode_step`; every leaf is [B,K,T,…] of five axes."""
        cfg = self.config
        shape = (batch, beams, length, cfg.num_heads, cfg.head_dim)
        cache: Cache = {
            f"layers_{i}": (jnp.zeros(shape, cfg.dtype), jnp.zeros(shape, cfg.dtype))
            for i in range(cfg.num_decoder_layers)
        }
        if cfg.copy_gate:
            cache[TOKENS] = jnp.zeros((batch, beams, length, 1, 1), jnp.int32)
        return cache

    def decode_step(
        self,
        tokens: Array,
        cache: Cache,
        position: Array,
        cross_kv: CrossStates,
        encoder_input_tokens: Array,
        first: Array | None = None,
        alphabet: Array | None = None,
    ) -> tuple[Array, Cache]:
        """One decoding step for all beams.

        Args:
            tokens: int32[B,K], the decoder's input at `position` (0, the start token, at first).
            cache: from `empty_cache`, `prefill` or the step before.
            position: int32[], the same for all beams.
            cross_kv: from `project_encoded`.
            encoder_input_tokens: int32[B,S], 0 padded.
            first: int32[B], the position of each example's start token, where they differ; what
                the cache holds before it is not looked at. Positions are relative, so that a
                later start changes nothing.
            alphabet: int[A], a part of the vocabulary, in which logits alone are wanted.

        Returns:
            logits float32[B,K,V], or [B,K,A], and the new cache.
        """
        hidden, new = self.decoder.step(
            self.token_embedder(tokens), cache, position, cross_kv, encoder_input_tokens > 0, first
        )
        if not self.config.copy_gate:
            return self._logits(hidden, alphabet=alphabet), new
        new[TOKENS] = jax.lax.dynamic_update_slice_in_dim(
            cache[TOKENS], tokens[:, :, None, None, None], position, axis=2
        )
        answer = new[TOKENS][..., 0, 0]
        question = jnp.repeat(encoder_input_tokens[:, None], tokens.shape[1], axis=1)
        before = jnp.concatenate([question, answer], axis=-1)
        return self._logits(hidden, before, cross_kv.get("copy_weights"), alphabet), new

    def prefill(
        self,
        tokens: Array,
        first: Array,
        cross_kv: CrossStates,
        encoder_input_tokens: Array,
    ) -> Cache:
        """The cache after P given tokens of one hypothesis, in one pass.

        Args:
            tokens: int32[B,P], the decoder's inputs at positions 0 … P-1; each example's own ones
                stand at the end, after start tokens.
            first: int32[B], where they begin; P if there are none.
            cross_kv: from `project_encoded`.
            encoder_input_tokens: int32[B,S], 0 padded.

        Returns:
            As from `empty_cache`, of one beam and P positions; `decode_step` goes on at P.
        """
        embedded = self.token_embedder(tokens)
        cache = self.decoder.prefill(embedded, first, cross_kv, encoder_input_tokens > 0)
        if self.config.copy_gate:
            cache[TOKENS] = tokens[:, None, :, None, None]
        return cache
