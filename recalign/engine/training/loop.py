"""The training loop: resume or start, step, log, evaluate, checkpoint."""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tensorboardX import SummaryWriter
from tqdm.contrib.logging import logging_redirect_tqdm

from recalign.engine import preemption, processes
from recalign.engine.training import batch_statistics
from recalign.engine.training.averaging import trained_parameters
from recalign.engine.training.checkpoints import Checkpoints
from recalign.engine.training.events import open_writer
from recalign.engine.training.model import TrainState
from recalign.engine.training.overview import format_arrays
from recalign.engine.training.trainer import Trainer
from recalign.errors import UserError
from recalign.progress import Progress

log = logging.getLogger(__name__)

Metrics = dict[str, float]
Batch = Mapping[str, np.ndarray]
ON_NONFINITE = ("stop", "skip")


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Something that parameters are measured by.

    Attributes:
      evaluate: gives the metrics of parameters.
      period: steps between evaluations; 0 means only at the end.
      tasks: what they are measured on.
    """

    evaluate: Callable[[Any], Metrics]
    period: int
    tasks: Collection[str] = ()


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What a run does around the steps of `train`.

    Attributes:
      evaluators: called with the parameters, each in its own period and at the end; what those of
        one step find is one evaluation.
      is_evaluated: whether the evaluation of a step on some tasks has been recorded already.
      on_start: called once the state is there, before the first step, with its number.
      on_metrics: told the step and the result of every evaluation.
      has_enough: asked in the first process, after an evaluation, whether to stop there.
      on_saved: told the step of a checkpoint that is being written.
      on_nonfinite: told a step whose loss or gradient was not finite, its batch and the rows that
        make it so; gives what the user should look at.
      initial_state: given a fresh state, gives the one that a new run starts from, laid out as it
        is.
    """

    evaluators: Sequence[Evaluator] = ()
    is_evaluated: Callable[[int, Collection[str]], bool] = lambda step, tasks: False
    on_start: Callable[[int], None] = lambda step: None
    on_metrics: Callable[[int, Metrics], None] = lambda step, metrics: None
    has_enough: Callable[[], bool] = lambda: False
    on_saved: Callable[[int], None] = lambda step: None
    on_nonfinite: Callable[[int, Batch, np.ndarray], str] = lambda step, batch, rows: ""
    initial_state: Callable[[TrainState], TrainState] | None = None


def train(
    *,
    trainer: Trainer,
    train_input: Iterator[Batch],
    model_dir: str,
    checkpoints: Checkpoints,
    total_steps: int,
    checkpoint_period: int = 1000,
    log_period: int = 50,
    nonfinite: str = "stop",
    accept_changes: bool = False,
    profile: range = range(0),
    hooks: Hooks = Hooks(),
) -> TrainState:
    """Trains up to `total_steps`, going on where an earlier call with this folder was cut off.

    The state comes from, in this order: 1. the newest whole checkpoint, with optimiser and position
    in the input; 2. `hooks.initial_state`; 3. scratch. Which one is logged. A
    checkpoint is saved before an evaluation begins, and an evaluation that was cut off is made up
    for, so that a run that was killed at any moment ends as one that was not.

    Args:
      trainer: makes and updates the state.
      train_input: endless batches, in each process the rows of them that `Partitioner.held_rows`
        tells; its position is saved where it has `save` and `restore`.
      model_dir: TensorBoard events are written here.
      checkpoints: of the run; closed at the end.
      total_steps: the step to stop at, steps of earlier calls included.
      checkpoint_period: steps between checkpoints; the last step is saved in any case.
      log_period: steps between two rows of TensorBoard, and two looks at the loss.
      nonfinite: what to do about a batch whose loss or gradient is not finite, and which has
        therefore changed nothing: 'stop', or 'skip' it.
      accept_changes: goes on although the input's saved position does not fit it, which then starts
        anew.
      profile: the steps that a trace of `jax.profiler` is written of, into `model_dir`.
      hooks: what happens around the steps.

    Raises:
      UserError: a loss or gradient was not finite; the disk is full.
      Preempted: told to stop; what was trained is in a checkpoint.
    """
    if nonfinite not in ON_NONFINITE:
        raise UserError(f"ON_NONFINITE is {nonfinite!r}, but must be one of {ON_NONFINITE}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(preemption.listening())
        preemption.safe_point()
        stack.push(functools.partial(_close, checkpoints))
        state = _first_state(trainer, checkpoints, train_input, hooks.initial_state, accept_changes)
        first = int(state.step)
        hooks.on_start(first)
        stack.enter_context(preemption.defer())
        writer = stack.enter_context(open_writer(str(model_dir), first))
        meter = _Meter(writer, trainer, nonfinite, hooks.on_nonfinite)

        def is_due(step: int, period: int) -> bool:
            return step == total_steps or (period > 0 and step % period == 0)

        def due(step: int) -> list[Evaluator]:
            return [each for each in hooks.evaluators if is_due(step, each.period)]

        def evaluate(step: int, evaluators: Sequence[Evaluator]) -> None:
            tasks = {task for each in evaluators for task in each.tasks}
            if not evaluators or processes.decide_once(lambda: hooks.is_evaluated(step, tasks)):
                return
            with preemption.interruptible():
                found = [each.evaluate(state.params) for each in evaluators]
            metrics = {name: value for each in found for name, value in each.items()}
            _write_scalars(writer, metrics, step)
            hooks.on_metrics(step, metrics)
            meter.restart()

        def has_enough(step: int) -> bool:
            enough = processes.decide_once(hooks.has_enough)
            if enough and len(due(step)) < len(hooks.evaluators):
                evaluate(step, hooks.evaluators)  # it is the end after all
            return enough

        if first:
            evaluate(first, due(first))
            if has_enough(first):
                return state
        log.info("parameters:\n%s", format_arrays(state.params))
        profiler = stack.enter_context(_Profiler(profile, model_dir))
        step_fn = trainer.step_fn()
        progress = stack.enter_context(
            Progress("training", total_steps, done=first, leave=True, shown=processes.is_first())
        )
        stack.enter_context(logging_redirect_tqdm())
        for step in range(first + 1, total_steps + 1):
            batch = next(train_input)
            profiler.begin(step)
            placed = trainer.partitioner.put_rows(batch)
            if step == first + 1:
                log.info("a batch:\n%s", format_arrays(placed))
            with jax.transfer_guard("disallow"):
                state, sums = step_fn(state, placed)
            meter.add(step, batch, sums)
            profiler.end(step, state)
            progress.update()
            stop = preemption.has_arrived() and step < total_steps
            save = stop or is_due(step, checkpoint_period) or bool(due(step))
            if save or is_due(step, log_period):  # nothing is saved that was not looked at
                progress.note(meter.report(step, state))
            if save:
                checkpoints.save(step, state, train_input)
                hooks.on_saved(step)
            if stop:
                preemption.safe_point()
            evaluate(step, due(step))
            if due(step) and has_enough(step):
                break
        preemption.safe_point()
    return state


@preemption.defer()
def _close(checkpoints: Checkpoints, _, error: BaseException | None, __) -> None:
    """Waits for what is written, unless another process is lost, whose part nobody writes."""
    if not processes.is_loss(error):
        checkpoints.close()


class _Profiler:
    """Traces some steps; a trace that is begun is ended, whatever happens."""

    def __init__(self, steps: range, folder: str):
        self._steps, self._folder, self._runs = steps, str(folder), False

    def __enter__(self) -> "_Profiler":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop()

    def begin(self, step: int) -> None:
        """Before a step."""
        if step in self._steps and not self._runs:
            jax.profiler.start_trace(self._folder)
            self._runs = True

    def end(self, step: int, state: TrainState) -> None:
        """After a step; the devices have then done what they were told."""
        if self._runs and step == self._steps[-1]:
            jax.block_until_ready(state)
            self._stop()

    def _stop(self) -> None:
        if self._runs:
            jax.profiler.stop_trace()
            self._runs = False
            log.info(
                "the trace of steps %d to %d is in %s/plugins/profile",
                self._steps[0],
                self._steps[-1],
                self._folder,
            )


def _first_state(
    trainer: Trainer,
    checkpoints: Checkpoints,
    train_input: Iterator,
    initial_state: Callable[[TrainState], TrainState] | None,
    accept_changes: bool,
) -> TrainState:
    if checkpoints.latest_step() is not None:
        resumable = train_input if hasattr(train_input, "restore") else None
        with Progress("reading the newest checkpoint", unit=None, shown=processes.is_first()):
            return checkpoints.restore(
                trainer.abstract_state, resumable, accept_changes=accept_changes
            )
    with Progress("making the first parameters", unit=None, shown=processes.is_first()):
        state = trainer.init_state()
        if initial_state is not None:
            state = initial_state(state)
    if initial_state is None:
        log.info("started from scratch, seed %d", trainer.seed)
    else:
        log.info("started from given parameters; optimiser and input start anew")
    return state


class _Meter:
    """Adds up what steps report, on the device, and tells means and rates."""

    def __init__(
        self,
        writer: SummaryWriter,
        trainer: Trainer,
        nonfinite: str,
        on_nonfinite: Callable[[int, Batch, np.ndarray], str],
    ):
        self._writer = writer
        self._trainer = trainer
        self._nonfinite = nonfinite
        self._on_nonfinite = on_nonfinite
        self.restart()

    def restart(self) -> None:
        """Forgets the steps since the last report, and starts the clock."""
        self._sums, self._recent, self._begin = None, [], time.perf_counter()

    def add(self, step: int, batch: Batch, sums: dict[str, jax.Array]) -> None:
        """Takes in one step without waiting for it."""
        self._sums = sums if self._sums is None else _add(self._sums, sums)
        self._recent.append((step, batch, sums["finite"]))

    def report(self, step: int, state: TrainState) -> str:
        """Writes the means since the last report, and says the most telling ones.

        Args:
          step: the newest one.
          state: after it.

        Raises:
          UserError: a loss or gradient was not finite, and the run is to stop.
        """
        sums = {name: float(value) for name, value in jax.device_get(self._sums).items()}
        seconds, steps = time.perf_counter() - self._begin, len(self._recent)
        weight, examples = max(sums["weights"], 1.0), max(sums["examples"], 1.0)
        scalars = {
            "loss": sums["loss"] / weight,
            "z_loss": sums["z_loss"] / weight,
            "accuracy": sums["correct"] / weight,
            "gradient_norm": sums["gradient_norm"] / max(sums["finite"], 1.0),
            "parameter_norm": sums["parameter_norm"] / steps,
            "learning_rate": self._trainer.learning_rate(state),
            "skipped_steps": steps - sums["finite"],
            "steps_per_second": steps / seconds,
            "tokens_per_second": sums["tokens"] / seconds,
            "tokens_per_sample": sums["tokens"] / examples,
        }
        for kind in ("truncated", "empty"):
            for side in batch_statistics.SIDES:
                scalars[f"{kind}_{side}"] = sums[f"{kind}_{side}"] / examples
        _write_scalars(self._writer, {f"train/{k}": v for k, v in scalars.items()}, step)
        if sums["finite"] < steps:
            self._tell_nonfinite(trained_parameters(state.params, state.opt_state))
        self.restart()
        return f"loss {scalars['loss']:.3f}, {scalars['tokens_per_second']:.0f} tokens/s"

    def _tell_nonfinite(self, params: Any) -> None:
        for step, batch, finite in self._recent:
            if float(finite):
                continue
            placed = self._trainer.partitioner.put_rows(batch)
            rows = self._trainer.nonfinite_rows(params, placed)
            which = f"rows {rows.tolist()}" if len(rows) else "the gradient, in no row alone"
            what = f"the loss or gradient is not finite at step {step} ({which})"
            hint = self._on_nonfinite(step, processes.gather(placed), rows)
            if self._nonfinite == "stop":
                raise UserError(f"{what}. {hint}".strip())
            log.warning("%s; the batch was skipped. %s", what, hint)


@jax.jit
def _add(total: dict[str, jax.Array], new: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """One call of the device for all sums, not one for each."""
    return jax.tree.map(jnp.add, total, new)


def _write_scalars(writer: SummaryWriter, scalars: Metrics, step: int) -> None:
    for name, value in scalars.items():
        writer.add_scalar(name, value, step)
    writer.flush()
