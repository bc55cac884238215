"""Cross-entropy with z-loss and T5X's ways to normalise it, all in float32.

The z-loss of a token is ``z_loss · log(Z)²``, Z the softmax's normaliser (Shazeer et al.,
Mesh-TensorFlow; Chowdhery et al., PaLM, arXiv:2204.02311, section 5). As in T5X it is part of the
loss, and reported once more beside it.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from recalign.errors import UserError

Array = jax.Array

NORMALIZERS = ("NUM_REAL_TARGET_TOKENS", "NUM_TOTAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE")


def token_cross_entropy(
    logits: Array, targets: Array, z_loss: float = 0.0, label_smoothing: float = 0.0
) -> tuple[Array, Array]:
    """The loss of every token and the part of it that is z-loss, float32[...] each.

    With label smoothing the target gets 1 - `label_smoothing` and every other token an equal
    share of the rest; the entropy of that distribution is subtracted, so that the minimum is 0.

    Args:
        logits: float[..., V].
        targets: int[...].
        z_loss: coefficient of log(Z)².
        label_smoothing: probability taken from the target.
    """
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    loss, log_z = _cross_entropy(logits.astype(wide), targets, z_loss, label_smoothing)
    return loss, jax.lax.stop_gradient(z_loss * jnp.square(log_z))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _cross_entropy(logits, targets, z_loss, label_smoothing):
    return _forward(logits, targets, z_loss, label_smoothing)[0]


def _label_distribution(label_smoothing: float, vocabulary: int) -> tuple[float, float, float]:
    """Probability of the target, of each other token, and the distribution's entropy."""
    on = 1.0 - label_smoothing
    off = label_smoothing / max(vocabulary - 1, 1)
    entropy = -sum(p * n * np.log(p) for p, n in ((on, 1), (off, vocabulary - 1)) if p > 0)
    return on, off, float(entropy)


def _forward(logits, targets, z_loss, label_smoothing):
    vocabulary = logits.shape[-1]
    on, off, entropy = _label_distribution(label_smoothing, vocabulary)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    loss = (on - off) * (log_z - picked) + z_loss * jnp.square(log_z) - entropy
    if label_smoothing:
        loss += off * (vocabulary * log_z - jnp.sum(logits, axis=-1))
    return (loss, log_z), (logits, targets, log_z)


def _backward(z_loss, label_smoothing, residuals, cotangents):
    """One fused pass over the logits: neither the softmax nor a one-hot target is kept."""
    logits, targets, log_z = residuals
    on, off, _ = _label_distribution(label_smoothing, logits.shape[-1])
    softmax = jnp.exp(logits - log_z[..., None])
    is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
    gradient = (1 + 2 * z_loss * log_z)[..., None] * softmax - jnp.where(is_target, on, off)
    return cotangents[0][..., None] * gradient, None


_cross_entropy.defvjp(_forward, _backward)


def normalizer_and_weights(
    batch: Mapping[str, Array], loss_normalizing_factor: float | str | None
) -> tuple[Array | float, Array]:
    """What the summed loss is divided by, and the weight of every target token.

    Args:
        batch: T5X's feature names; `decoder_loss_weights` [B,L] if given, else every target that
            is not padding weighs 1.
        loss_normalizing_factor: a number; None for 1 (a sum over tokens); or one of
            NUM_REAL_TARGET_TOKENS (the sum of the weights), NUM_TOTAL_TARGET_TOKENS (padding
            counted), AVERAGE_PER_SEQUENCE (each sequence, or each packed segment, weighs 1).

    Returns:
        A scalar and float32[B,L].
    """
    targets = batch["decoder_target_tokens"]
    weights = batch.get("decoder_loss_weights", targets > 0)
    weights = weights.astype(jnp.promote_types(weights.dtype, jnp.float32))
    if loss_normalizing_factor is None:
        return 1.0, weights
    if not isinstance(loss_normalizing_factor, str):
        return float(loss_normalizing_factor), weights
    match loss_normalizing_factor.upper():
        case "NUM_REAL_TARGET_TOKENS":
            return jnp.sum(weights), weights
        case "NUM_TOTAL_TARGET_TOKENS":
            return float(targets.size), weights
        case "AVERAGE_PER_SEQUENCE":
            whole = _segment_sums(weights, batch.get("decoder_segment_ids"))
            weights = jnp.where(whole > 0, weights / jnp.where(whole > 0, whole, 1), 0)
            return jnp.sum(weights), weights
    raise UserError(
        f"LOSS_NORMALIZING_FACTOR is {loss_normalizing_factor!r}: expected a number, None or one "
        f"of {', '.join(NORMALIZERS)}"
    )


def _segment_sums(weights: Array, segment_ids: Array | None) -> Array:
    """For every token the sum of the weights of its segment, broadcast to [B,L]."""
    if segment_ids is None:
        return jnp.sum(weights, axis=-1, keepdims=True)
    segments = weights.shape[-1] + 1  # a row of L tokens has at most L segments; 0 is padding

    def row(weights, ids):
        return jax.ops.segment_sum(weights, ids, num_segments=segments)[ids]

    return jax.vmap(row)(weights, segment_ids)


def loss_sums(
    logits: Array, targets: Array, weights: Array, z_loss: float, label_smoothing: float
) -> dict[str, Array]:
    """Sums over tokens, not normalised, float32[] each.

    Args:
        logits: float32[B,L,V].
        targets: int[B,L].
        weights: float32[B,L].
        z_loss: coefficient of log(Z)².
        label_smoothing: probability taken from the target.

    Returns:
        'loss' and 'z_loss' (weighted; the loss holds both), 'weights' and 'correct' (weights of the
        tokens whose target has the highest logit).
    """
    loss, extra = token_cross_entropy(logits, targets, z_loss, label_smoothing)
    # Not argmax: where the loss takes the maximum anyway, that would be one more pass.
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    hits = picked == jnp.max(logits, axis=-1)
    return {
        "loss": jnp.sum(loss * weights),
        "z_loss": jnp.sum(extra * weights),
        "weights": jnp.sum(weights),
        "correct": jnp.sum(hits * weights),
    }
