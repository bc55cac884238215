"""The training loop: resume or start, step, log, evaluate, checkpoint."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from etils import epath
from tensorboardX import SummaryWriter
from tqdm.contrib.logging import logging_redirect_tqdm

from recalign.engine import processes
from recalign.engine.checkpoints import Checkpoints
from recalign.engine.model import TrainState
from recalign.engine.partitioning import put
from recalign.engine.trainer import Trainer

log = logging.getLogger(__name__)

Metrics = dict[str, float]
Evaluate = Callable[[Any], Metrics]  # parameters → metrics


def train(
    *,
    trainer: Trainer,
    train_input: Iterator[Mapping[str, np.ndarray]],
    model_dir: str,
    total_steps: int,
    evaluate: Evaluate | None = None,
    eval_period: int = 1000,
    checkpoint_period: int = 1000,
    checkpoints_to_keep: int | None = 2,
    log_period: int = 50,
    initial_params: Callable[[], Any] | None = None,
    on_start: Callable[[], None] = lambda: None,
    on_metrics: Callable[[int, Metrics], None] = lambda step, metrics: None,
) -> TrainState:
    """Trains up to `total_steps`, going on where an earlier call with this folder was cut off.

    The state comes from, in this order: 1. the newest checkpoint of `model_dir`, with optimiser and
    position in the input; 2. `initial_params`, parameters alone; 3. scratch. Which one is logged.

    Args:
      trainer: makes and updates the state.
      train_input: endless batches; its position is saved where it has `save` and `restore`.
      model_dir: `checkpoints/` and TensorBoard events are written here.
      total_steps: the step to stop at, steps of earlier calls included.
      evaluate: called with the parameters every `eval_period` steps and at the end.
      eval_period: steps between evaluations; 0 means only at the end.
      checkpoint_period: steps between checkpoints; the last step is saved in any case.
      checkpoints_to_keep: only so many newest ones stay; None keeps all.
      log_period: steps between two rows of TensorBoard, and two looks at the loss.
      initial_params: loads parameters to start from, as numpy arrays.
      on_start: called once the state is there, before the first step.
      on_metrics: told the result of every evaluation.

    Raises:
      FloatingPointError: the loss is not finite.
    """
    folder = epath.Path(model_dir)
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(folder / "checkpoints", checkpoints_to_keep)
        stack.callback(checkpoints.close)
        state = _first_state(trainer, checkpoints, train_input, initial_params)
        on_start()
        first = int(state.step)
        step_fn = trainer.step_fn()
        writer = stack.enter_context(SummaryWriter(str(folder), write_to_disk=processes.is_first()))
        meter = _Meter(writer)
        bar = stack.enter_context(
            tqdm.tqdm(
                total=total_steps,
                initial=first,
                unit="step",
                disable=not (sys.stderr.isatty() and processes.is_first()),
            )
        )
        stack.enter_context(logging_redirect_tqdm())
        for step in range(first + 1, total_steps + 1):
            last = step == total_steps
            batch = trainer.partitioner.put_batch(next(train_input))
            with trainer.partitioner.activate(), jax.transfer_guard("disallow"):
                state, sums = step_fn(state, batch)
            meter.add(sums)
            bar.update()
            if last or step % log_period == 0:
                bar.set_postfix(meter.report(step))
            if last or step % checkpoint_period == 0:
                checkpoints.save(step, state, train_input)
            if evaluate and (last or (eval_period and step % eval_period == 0)):
                metrics = evaluate(state.params)
                _write_scalars(writer, metrics, step)
                on_metrics(step, metrics)
                meter.restart()
    return state


def _first_state(
    trainer: Trainer,
    checkpoints: Checkpoints,
    train_input: Iterator,
    initial_params: Callable[[], Any] | None,
) -> TrainState:
    step = checkpoints.latest_step()
    if step is not None:
        resumable = hasattr(train_input, "restore")
        state = checkpoints.restore(trainer.abstract_state(), train_input if resumable else None)
        log.info(
            "resumed at step %d: parameters, optimiser%s",
            step,
            " and position in the input" if resumable else "; the input starts anew",
        )
        return state
    state = trainer.init_state()
    if initial_params is None:
        log.info("started from scratch, seed %d", trainer.seed)
        return state
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    log.info("started from given parameters; optimiser and input start anew")
    return state.replace(params=jax.tree.map(put, initial_params(), shardings))


class _Meter:
    """Adds up what steps report, on the device, and tells means and rates."""

    def __init__(self, writer: SummaryWriter):
        self._writer = writer
        self.restart()

    def restart(self) -> None:
        """Forgets the steps since the last report, and starts the clock."""
        self._sums, self._steps, self._begin = None, 0, time.perf_counter()

    def add(self, sums: dict[str, jax.Array]) -> None:
        """Takes in one step without waiting for it."""
        self._sums = sums if self._sums is None else jax.tree.map(jnp.add, self._sums, sums)
        self._steps += 1

    def report(self, step: int) -> dict[str, str]:
        """Writes the means since the last report, and gives those for the progress bar.

        Raises:
          FloatingPointError: the loss is not finite.
        """
        sums = {name: float(value) for name, value in jax.device_get(self._sums).items()}
        seconds = time.perf_counter() - self._begin
        weight = max(sums["weights"], 1.0)
        scalars = {
            "loss": sums["loss"] / weight,
            "z_loss": sums["z_loss"] / weight,
            "accuracy": sums["correct"] / weight,
            "steps_per_second": self._steps / seconds,
            "tokens_per_second": sums["tokens"] / seconds,
        }
        if not np.isfinite(scalars["loss"]):
            raise FloatingPointError(f"the loss is {scalars['loss']} at step {step}")
        _write_scalars(self._writer, {f"train/{k}": v for k, v in scalars.items()}, step)
        self.restart()
        return {
            "loss": f"{scalars['loss']:.3f}",
            "tokens/s": f"{scalars['tokens_per_second']:.0f}",
        }


def _write_scalars(writer: SummaryWriter, scalars: Metrics, step: int) -> None:
    for name, value in scalars.items():
        writer.add_scalar(name, value, step)
    writer.flush()
