"""The network with its loss and optimiser: what a training step needs to know."""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from recalign.engine.training import batch_statistics, losses

Batch = dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
    """All that a step changes.

    Attributes:
      step: int32[], steps done.
      params: float32 parameters; their average, if the optimiser is one of `averaging`.
      opt_state: the optimiser's.
    """

    step: jax.Array
    params: flax.core.FrozenDict
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class EncoderDecoderModel:
    """A T5 and how it is trained; the fields are those of T5X's class of this name.

    Attributes:
      module: the network.
      optimizer_def: updates parameters.
      z_loss: weight of the squared log-normaliser, which keeps logits from drifting.
      label_smoothing: probability moved from the target to all tokens.
      loss_normalizing_factor: what the summed loss is divided by, see `losses`.
    """

    module: nn.Module
    optimizer_def: optax.GradientTransformation
    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    loss_normalizing_factor: float | str | None = None

    def init(self, rng: jax.Array) -> TrainState:
        """A fresh state; parameters do not depend on the batch's shape."""
        return self.begin(self._init_variables(rng)["params"])

    def begin(self, params: dict) -> TrainState:
        """The state before the first step from these parameters."""
        return TrainState(jnp.zeros((), jnp.int32), params, self.optimizer_def.init(params))

    def shapes_and_axes(self) -> tuple[TrainState, dict]:
        """The shapes of a state, and the logical axis names of every parameter."""
        variables = jax.eval_shape(self._init_variables, jax.random.key(0))
        return jax.eval_shape(self.begin, variables["params"]), variables["params_axes"]

    def _init_variables(self, rng: jax.Array) -> dict:
        tokens = jnp.ones((1, 1), jnp.int32)
        return self.module.init(rng, tokens, tokens, tokens, enable_dropout=False)

    def loss(
        self, params: dict, batch: Batch, normalizer: jax.Array | float, dropout: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss to minimise, and what to log.

        Args:
          params: the network's.
          batch: SeqIO's encoder-decoder features, int[B, length] each, but float32 weights.
          normalizer: what the weighted sum over tokens is divided by.
          dropout: random key.

        Returns:
          float32[], and sums over tokens, float32[] each: those of `losses.loss_sums` and
          `batch_statistics.count`.
        """
        logits = self._logits(params, batch, dropout)
        sums = losses.loss_sums(
            logits,
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"],
            self.z_loss,
            self.label_smoothing,
        )
        return sums["loss"] / normalizer, sums | batch_statistics.count(batch)

    def row_losses(self, params: dict, batch: Batch) -> jax.Array:
        """The summed loss of each row of a batch without dropout, float32[B]."""
        targets = batch["decoder_target_tokens"]
        logits = self._logits(params, batch)
        loss, _ = losses.token_cross_entropy(logits, targets, self.z_loss, self.label_smoothing)
        _, weights = losses.normalizer_and_weights(batch, None)
        return jnp.sum(jnp.where(weights > 0, loss, 0.0), axis=-1)

    def _logits(self, params: dict, batch: Batch, dropout: jax.Array | None = None) -> jax.Array:
        return self.module.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            batch.get("encoder_segment_ids"),
            batch.get("decoder_segment_ids"),
            enable_dropout=dropout is not None,
            rngs=None if dropout is None else {"dropout": dropout},
        )
