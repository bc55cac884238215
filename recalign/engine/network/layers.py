# ruff: noqa: D102 (`setup` declares the parts of a module, which its class describes)
"""The parts of a T5 layer: linear maps, norms, attention, relative positions, MLP.

Parameters are always float32, activations in `T5Config.dtype`; norms, attention logits and softmax
are at least float32. Shapes are named as in `transformer`. Logical axis names stand on
every parameter (collection ``params_axes``) and on activations that a layout may split; they mean
nothing until a `Partitioner` compiles the network.
"""

import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning

from recalign.engine.network.config import (
    NORM_EPSILON,
    RELATIVE_BUCKETS,
    RELATIVE_MAX_DISTANCE,
    T5Config,
)
from recalign.engine.partitioning import constrain

Array = jax.Array
KeysValues = tuple[Array, Array]

# Finite, so that a row without any legal key (padding) gives uniform weights and not NaN.
MASKED = -1e10

# T5X's scales. With the relative step of Adafactor, they set the speed of training as well.
_attention_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
_dense_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
_relative_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def relative_position_bucket(offset: np.ndarray, bidirectional: bool) -> np.ndarray:
    """The bucket of each key-minus-query offset, int32 of the same shape.

    Half of the buckets are exact small distances, the others grow logarithmically up to
    `RELATIVE_MAX_DISTANCE`. Without `bidirectional`, keys to the right share bucket 0.
    Computed in float32, as T5X does, so that distances on a bucket's edge fall on its side.
    """
    buckets = RELATIVE_BUCKETS // 2 if bidirectional else RELATIVE_BUCKETS
    distance = np.abs(offset) if bidirectional else np.maximum(-offset, 0)
    exact = buckets // 2
    ratio = distance.astype(np.float32) / exact + np.finfo(np.float32).eps
    octaves = np.log(ratio) / np.log(RELATIVE_MAX_DISTANCE / exact)
    coarse = np.minimum(exact + (octaves * (buckets - exact)).astype(np.int32), buckets - 1)
    bucket = np.where(distance < exact, distance, coarse)
    return (bucket + buckets * (bidirectional & (offset > 0))).astype(np.int32)


def wide(x: Array) -> jnp.dtype:
    """The dtype in which sums over `x` are taken: float32, or its own where that is wider."""
    return jnp.promote_types(x.dtype, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def wide_einsum(spec: str, a: Array, b: Array) -> Array:
    """A product of two arrays whose sums, and result, are `wide`.

    Its gradient is rounded to the factors' dtype before it is multiplied. Without that the two
    products of the backward pass would have float32 factors, at a fraction of bfloat16's speed.
    """
    return jnp.einsum(spec, a, b, preferred_element_type=wide(a))


def _wide_einsum_backward(spec: str, factors: tuple[Array, Array], gradient: Array):
    a, b = factors
    in_a, in_b, out = spec.replace("->", ",").split(",")
    gradient = gradient.astype(a.dtype)
    return (
        jnp.einsum(f"{out},{in_b}->{in_a}", gradient, b),
        jnp.einsum(f"{in_a},{out}->{in_b}", a, gradient),
    )


wide_einsum.defvjp(lambda spec, a, b: (wide_einsum(spec, a, b), (a, b)), _wide_einsum_backward)


def mask_pairs(query: Array, key: Array, relation: Callable = operator.eq) -> Array:
    """bool[B,1,Q,S]: `relation` of every query's value [B,Q] with every key's [B,S]."""
    return relation(query[:, None, :, None], key[:, None, None, :])


def attend(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    bias: Array | None = None,
    tell: Callable[[Array], None] = lambda weights: None,
) -> Array:
    """Attention, [B,Q,H,D] in the dtype of `query`.

    Args:
        query: [B,Q,H,D].
        key: [B,S,H,D].
        value: [B,S,H,D].
        mask: bool, True where a query may look, broadcast to [B,H,Q,S].
        bias: float32, added to the logits, broadcast to [B,H,Q,S].
        tell: is told the weights [B,H,Q,S].
    """
    logits = wide_einsum("bqhd,bshd->bhqs", query, key)
    weights = _weigh(logits, bias, mask, query.dtype)
    tell(weights)
    return jnp.einsum("bhqs,bshd->bqhd", weights, value)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _weigh(logits: Array, bias: Array | None, mask: Array, dtype: jnp.dtype) -> Array:
    """The softmax over keys of logits [B,H,Q,S] + bias [1,H,Q,S] under a mask, in `dtype`.

    Arithmetic is that of the logits, float32 at least, but what the backward pass keeps, and what
    it gives, is stored in `dtype`: on a GPU, moving arrays of B·H·Q·S is half of a step.
    """
    if bias is not None:
        logits = logits + bias
    return jax.nn.softmax(jnp.where(mask, logits, MASKED), axis=-1).astype(dtype)


def _weigh_forward(logits, bias, mask, dtype):
    # Without the barrier XLA would keep the logits, and compute the weights from them again.
    weights = jax.lax.optimization_barrier(_weigh(logits, bias, mask, dtype))
    return weights, (weights, bias, mask)


def _weigh_backward(dtype, kept, gradient):
    weights, bias, mask = kept
    weights = weights.astype(wide(weights))
    gradient = gradient.astype(weights.dtype)
    gradient = weights * (gradient - jnp.sum(weights * gradient, axis=-1, keepdims=True))
    gradient = jnp.where(mask, gradient, 0).astype(dtype)
    of_logits = gradient.astype(weights.dtype)
    if bias is None:
        return of_logits, None, None
    # By a product with ones: as a reduction, XLA takes 70 times as long for this sum on a CPU.
    summed = jnp.einsum("b,bhqs->hqs", jnp.ones(len(gradient), dtype), gradient)
    return of_logits, summed[None].astype(bias.dtype), None


_weigh.defvjp(_weigh_forward, _weigh_backward)


class Dense(nn.Module):
    """A linear map of the last axis, without bias; its kernel is [in, out]."""

    inputs: int
    outputs: int
    axes: tuple[str, str]
    dtype: str
    init: Callable = _dense_init

    def setup(self):
        self.kernel = partitioning.param_with_axes(
            "kernel", self.init, (self.inputs, self.outputs), jnp.float32, axes=self.axes
        )

    def __call__(self, x: Array) -> Array:
        """[..., in] -> [..., out], in `dtype`.

        The product is one of matrices: from the gradient of a batched one, XLA on a CPU makes
        element by element transposed copies that take longer than the product.
        """
        rows = x.astype(self.dtype).reshape(-1, self.inputs)
        return (rows @ self.kernel.astype(self.dtype)).reshape(*x.shape[:-1], self.outputs)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation of the last axis (Zhang & Sennrich, arXiv:1910.07467)."""

    features: int
    dtype: str

    def setup(self):
        self.scale = partitioning.param_with_axes(
            "scale", nn.initializers.ones, (self.features,), jnp.float32, axes=("embed",)
        )

    def __call__(self, x: Array) -> Array:
        """[..., features] -> the same shape, in `dtype`."""
        x = x.astype(wide(x))
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + NORM_EPSILON)
        return x.astype(self.dtype) * self.scale.astype(self.dtype)


class Embedding(nn.Module):
    """The token embedding, shared by encoder and decoder."""

    config: T5Config

    def setup(self):
        cfg = self.config
        self.embedding = partitioning.param_with_axes(
            "embedding",
            nn.initializers.normal(stddev=1.0),
            (cfg.vocab_size, cfg.emb_dim),
            jnp.float32,
            axes=("vocab", "embed"),
        )

    def __call__(self, tokens: Array) -> Array:
        """int[B,L] -> [B,L,E]. A token outside the vocabulary gives NaN: it must not pass."""
        x = jnp.take(self.embedding, tokens.astype(jnp.int32), axis=0, mode="fill")
        x = x.astype(self.config.dtype)
        return constrain(x, "batch", "length", "embed")


class RelativePositionBias(nn.Module):
    """The bias that one stack's heads add for each distance between query and key."""

    num_heads: int
    bidirectional: bool

    def setup(self):
        self.rel_embedding = partitioning.param_with_axes(
            "rel_embedding",
            _relative_init,
            (self.num_heads, RELATIVE_BUCKETS),
            jnp.float32,
            axes=("heads", "relpos_buckets"),
        )

    def __call__(self, length: int) -> Array:
        """The bias of every pair of `length` positions, float32[1,H,L,L].

        The bias is constant along diagonals: one row of 2L values, repeated and read with a
        stride one shorter, shifts right by one with each query. Its gradient is then a dense sum
        instead of a scatter of L² values.
        """
        offsets = np.concatenate([np.arange(length), np.arange(-length, 0)])
        row = self.rel_embedding[:, relative_position_bucket(offsets, self.bidirectional)]
        rows = jnp.tile(row, (1, length))[:, : length * (2 * length - 1)]
        return rows.reshape(1, self.num_heads, length, 2 * length - 1)[..., :length]

    def at(self, position: Array, length: int) -> Array:
        """Causal: the bias of one query at `position` on keys 0 … length-1, float32[1,H,1,T]."""
        buckets = jnp.asarray(relative_position_bucket(-np.arange(length), self.bidirectional))
        distances = jnp.maximum(position - jnp.arange(length), 0)
        return jnp.take(self.rel_embedding, buckets[distances], axis=1)[None, :, None, :]


class Attention(nn.Module):
    """Multi-head attention; keys and values are made apart, so that they can be kept."""

    config: T5Config

    def setup(self):
        cfg = self.config
        joined = cfg.num_heads * cfg.head_dim
        dense = functools.partial(Dense, cfg.emb_dim, joined, ("embed", "joined_kv"), cfg.dtype)
        self.query = dense(init=lambda *args: _attention_init(*args) / np.sqrt(cfg.head_dim))
        self.key = dense(init=_attention_init)
        self.value = dense(init=_attention_init)
        self.out = Dense(joined, cfg.emb_dim, ("joined_kv", "embed"), cfg.dtype, _attention_init)

    def _split(self, x: Array) -> Array:
        x = x.reshape(*x.shape[:-1], self.config.num_heads, self.config.head_dim)
        return constrain(x, "batch", "length", "heads", "kv")

    def _drop(self, value: Array) -> Array:
        """Dropout of values [B,S,H,D].

        T5 drops a head's weights for all queries of a key at once, which is to drop the key's
        value: arrays of B·H·Q·S are then neither multiplied nor kept.
        """
        keep = 1.0 - self.config.dropout_rate
        rows, keys, heads, _ = value.shape
        # In the order of weights, so that a seed drops what it always has.
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, (rows, heads, keys, 1))
        kept = kept.swapaxes(1, 2)
        return value * (kept.astype(value.dtype) / jnp.asarray(keep, value.dtype))

    def keys_values(self, x: Array) -> KeysValues:
        """[B,S,E] -> keys and values, [B,S,H,D] each."""
        return self._split(self.key(x)), self._split(self.value(x))

    def __call__(
        self,
        x: Array,
        keys_values: KeysValues,
        mask: Array,
        bias: Array | None = None,
        deterministic: bool = True,
    ) -> Array:
        """Queries from x [B,Q,E] on keys and values [B,S,H,D] -> [B,Q,E].

        The weights [B,H,Q,S] are kept in the collection ``intermediates`` if that is mutable.
        """
        key, value = keys_values
        if self.config.dropout_rate and not deterministic:
            value = self._drop(value)
        tell = functools.partial(self.sow, "intermediates", "weights")
        x = attend(self._split(self.query(x)), key, value, mask, bias, tell)
        return self.out(x.reshape(*x.shape[:-2], -1))


class MLP(nn.Module):
    """The gated feed-forward block."""

    config: T5Config

    def setup(self):
        cfg = self.config
        gated = len(cfg.mlp_activations) > 1
        self.wi = [
            Dense(
                cfg.emb_dim,
                cfg.mlp_dim,
                ("embed", "mlp"),
                cfg.dtype,
                name=f"wi_{i}" if gated else "wi",
            )
            for i in range(len(cfg.mlp_activations))
        ]
        self.wo = Dense(cfg.mlp_dim, cfg.emb_dim, ("mlp", "embed"), cfg.dtype)
        self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

    def __call__(self, x: Array, deterministic: bool = True) -> Array:
        """[B,L,E] -> [B,L,E]."""
        branches = [
            wi(x) if name == "linear" else getattr(nn, name)(wi(x))
            for wi, name in zip(self.wi, self.config.mlp_activations, strict=True)
        ]
        x = self.dropout(functools.reduce(operator.mul, branches), deterministic=deterministic)
        x = constrain(x, "batch", "length", "mlp")
        return self.wo(x)
