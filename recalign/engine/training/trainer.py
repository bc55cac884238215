"""One training step of a model under a layout, and the state it starts from."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from recalign.engine.partitioning import Partitioner
from recalign.engine.training import losses
from recalign.engine.training.adafactor import Optimizer, count_updates
from recalign.engine.training.averaging import trained_parameters
from recalign.engine.training.model import Batch, EncoderDecoderModel, TrainState
from recalign.errors import UserError, check_positive


@contextlib.contextmanager
def drawing_by_kernel() -> Iterator[None]:
    """Within the block, what is compiled for a GPU draws the same random numbers by a kernel.

    XLA otherwise compiles the arithmetic of every array that is drawn: for the 282 of
    FLAN-T5-Base that takes twelve times as long. A step is better off without, where it would store
    the bits of a dropout.
    """
    before = jax.config.jax_threefry_gpu_kernel_lowering
    jax.config.update("jax_threefry_gpu_kernel_lowering", True)
    try:
        yield
    finally:
        jax.config.update("jax_threefry_gpu_kernel_lowering", before)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Runs training steps of one model under one layout.

    Attributes:
      model: the network, its loss and optimiser.
      partitioner: lays out state and batches.
      num_microbatches: a batch is run in so many parts, whose gradients are added up; they then
        need the memory of one part.
      seed: of the initial parameters and of dropout.
    """

    model: EncoderDecoderModel
    partitioner: Partitioner
    num_microbatches: int = 1
    seed: int = 0

    def __post_init__(self):
        check_positive("Trainer.num_microbatches", self.num_microbatches)

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """The shapes and layouts of the state, without making it."""
        shapes, axes = self.model.shapes_and_axes()
        shardings = self.partitioner.state_shardings(shapes, axes)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            shardings,
        )

    def init_state(self) -> TrainState:
        """A fresh state, each device making its own part."""
        # XLA has no way to part a kernel: each of several devices would draw the whole.
        alone = self.partitioner.mesh.size == 1
        with drawing_by_kernel() if alone else contextlib.nullcontext():
            return self._make(self.model.init, jax.random.key(self.seed))

    def begin(self, params: Any) -> TrainState:
        """The state before the first step from these parameters, laid out as they must be."""
        return self._make(self.model.begin, params)

    def _make(self, make: Callable[[Any], TrainState], start: Any) -> TrainState:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        return self.partitioner.compile(make, out_shardings=shardings)(start)

    def step_fn(self) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
        """The compiled step; it takes over the memory of the state it is given."""
        # On all devices from the start: the loop forbids that a step has to send it there.
        key = jax.jit(jax.random.key, static_argnums=0, out_shardings=self.partitioner.sharding())
        return functools.partial(self._compiled_step(), key(self.seed))

    def lower_step(self, batch: Batch) -> jax.stages.Lowered:
        """The program of a step, for the shapes and layouts of a batch; nothing is computed."""
        key = jax.eval_shape(jax.random.key, self.seed)
        return self._compiled_step().lower(key, self.abstract_state, batch)

    def _compiled_step(self) -> Callable:
        # The key is an argument, so that one program serves all seeds.
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        return self.partitioner.compile(
            dataclasses.replace(self, seed=0)._step,
            donate_argnums=1,
            out_shardings=(shardings, self.partitioner.sharding()),
        )

    def learning_rate(self, state: TrainState) -> float:
        """The rate of the newest update, nan if the optimiser does not tell.

        That of the first one before there is any. A batch that was skipped is a step and no update.
        """
        optimizer = self.model.optimizer_def
        if not isinstance(optimizer, Optimizer):
            return math.nan
        return float(optimizer.learning_rate(max(count_updates(state.opt_state) - 1, 0)))

    def nonfinite_rows(self, params: Any, batch: Batch) -> np.ndarray:
        """The rows of a batch, int[…], whose loss without dropout is not finite.

        Args:
          params: before the step.
          batch: as `Partitioner.put_batch` lays it out.
        """
        losses_of = self.partitioner.compile(
            self.model.row_losses, out_shardings=self.partitioner.sharding()
        )
        losses = losses_of(params, batch)
        return np.flatnonzero(~np.isfinite(jax.device_get(losses)))

    def _step(
        self, key: jax.Array, state: TrainState, batch: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update.

        Args:
          key: random, of the whole training.
          state: before.
          batch: SeqIO's encoder-decoder features, int32[B, length] each.

        Returns:
          The state after, and float32[] each: the sums that `EncoderDecoderModel.loss` tells of,
          `gradient_norm`, `parameter_norm` and `finite`. A batch whose loss or gradient is not
          finite (`finite` = 0) changes nothing but the step, and its sums are 0.
        """
        dropout = jax.random.fold_in(key, state.step)
        trained = trained_parameters(state.params, state.opt_state)
        gradients, sums = self._gradients(trained, batch, dropout)
        updates, opt_state = self.model.optimizer_def.update(
            gradients, state.opt_state, state.params
        )
        params = jax.tree.map(jnp.add, state.params, updates)
        sums["gradient_norm"] = optax.tree.norm(gradients).astype(jnp.float32)
        finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(sums["gradient_norm"])
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state),
            (state.params, state.opt_state),
        )
        sums = {name: jnp.where(finite, value, 0.0) for name, value in sums.items()}
        sums["parameter_norm"] = optax.tree.norm(params).astype(jnp.float32)
        sums["finite"] = finite.astype(jnp.float32)
        return TrainState(state.step + 1, params, opt_state), sums

    def _gradients(self, params: Any, batch: Batch, dropout: jax.Array) -> tuple[Any, dict]:
        normalizer, weights = losses.normalizer_and_weights(
            batch, self.model.loss_normalizing_factor
        )
        batch = {**batch, "decoder_loss_weights": weights}
        gradient = jax.grad(self.model.loss, has_aux=True)
        if self.num_microbatches == 1:
            return gradient(params, batch, normalizer, dropout)

        rows = len(batch["decoder_target_tokens"])
        if rows % self.num_microbatches:
            raise UserError(
                f"Trainer.num_microbatches = {self.num_microbatches} does not divide the {rows} "
                "rows of a batch (BATCH_SIZE)"
            )

        def add(total, part):
            index, rows = part
            new = gradient(params, rows, normalizer, jax.random.fold_in(dropout, index))
            return jax.tree.map(jnp.add, total, new), None

        parts = jax.tree.map(
            lambda rows: rows.reshape(self.num_microbatches, -1, *rows.shape[1:]), batch
        )
        first = jax.tree.map(lambda rows: rows[0], parts)
        zero = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(gradient, params, first, normalizer, dropout),
        )
        return jax.lax.scan(add, zero, (jnp.arange(self.num_microbatches), parts))[0]
