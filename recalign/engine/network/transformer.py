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

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recalign.engine.network.config import T5Config
from recalign.engine.network.decoder import Decoder
from recalign.engine.network.encoder import Encoder
from recalign.engine.network.layers import Array, Embedding, KeysValues, mask_pairs, wide_einsum

__all__ = ["T5Config", "Transformer"]


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
