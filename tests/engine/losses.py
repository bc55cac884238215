"""The loss of a batch, whose logits are at hand."""

from recalign.engine.training.losses import loss_sums, normalizer_and_weights


def batch_loss(logits, batch, z_loss=0.0, loss_normalizing_factor=None):
    """The scalar that training minimises, and the sums that are logged beside it."""
    factor, weights = normalizer_and_weights(batch, loss_normalizing_factor)
    sums = loss_sums(logits, batch["decoder_target_tokens"], weights, z_loss, 0.0)
    return sums["loss"] / factor, sums
