"""Fits SASRec to train sequences, and tells the states of histories, all in packed rows."""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from recalign.evaluation.baselines.sasrec import packing
from recalign.evaluation.baselines.sasrec.network import SASRec, SASRecConfig, loss
from recalign.evaluation.baselines.sasrec.packing import Packed
from recalign.progress import track

log = logging.getLogger(__name__)

Params = Any

ROW_MULTIPLE = 16
"""Batches of prefixes have so many rows, or a multiple: few shapes to compile."""


class Batch(NamedTuple):
    """What a step reads; see `network.loss` for the arrays."""

    packed: Packed
    targets: np.ndarray
    places: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How SASRec is trained.

    Attributes:
      prefixes: every prefix of a sequence is a sample, asked at its last position alone; otherwise
        every position of a sequence is asked.
      rows: packed rows in a batch, of `SASRecConfig.max_length` items each; without `prefixes`.
      samples: prefixes in a batch; with `prefixes`.
      learning_rate: Adam's, constant.
      weight_decay: so much of a parameter is added to its gradient, as by PyTorch's Adam.
      epochs: passes over the train sequences at most.
      patience: stops when so many epochs in a row brought no better validation.
      seed: of the initial parameters, dropout and the order of the sequences.
    """

    prefixes: bool = False
    rows: int = 16
    samples: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    epochs: int = 200
    patience: int = 10
    seed: int = 0


def fit(
    config: SASRecConfig,
    recipe: Recipe,
    offsets: np.ndarray,
    events: np.ndarray,
    validate: Callable[[Params], float] | None = None,
) -> Params:
    """Trains on the next item at every position, or after every prefix.

    Args:
      config: the network's sizes.
      recipe: how to train it.
      offsets: int[n + 1]; train sequence s is `events[offsets[s]:offsets[s + 1]]`.
      events: int[…], item indices, oldest first.
      validate: judges parameters after each epoch, higher is better; None trains all epochs.

    Returns:
      The parameters of the best epoch, or of the last one without `validate`.

    Raises:
      FloatingPointError: the loss is not finite.
      ValueError: a filter that looks ahead is to be trained at every position.
    """
    if config.low_pass and not recipe.prefixes:
        raise ValueError("a low-pass filter sees the items that other positions are asked for")
    module = SASRec(config)
    params, opt_state = _start(module, recipe)
    step_fn, key = _step_fn(module, recipe), jax.random.key(recipe.seed)
    best, best_value, best_epoch, steps = params, -np.inf, 0, 0
    rng = np.random.default_rng(recipe.seed)
    name = "BSARec" if config.low_pass else "SASRec"
    for epoch in track(range(1, recipe.epochs + 1), name, "epoch"):
        begin, losses = time.perf_counter(), []
        for batch in (_prefix_batches if recipe.prefixes else _batches)(
            config, recipe, offsets, events, rng
        ):
            params, opt_state, value = step_fn(params, opt_state, batch, key, steps)
            losses.append(value)
            steps += 1
        mean = float(np.mean(jax.device_get(losses))) if losses else 0.0
        if not np.isfinite(mean):
            raise FloatingPointError(f"the loss is {mean} in epoch {epoch}")
        value = validate(params) if validate else float(epoch)
        seconds = time.perf_counter() - begin
        log.info("epoch %d: loss %.4f, validation %.5f, %.1f s", epoch, mean, value, seconds)
        if value > best_value:
            best, best_value, best_epoch = params, value, epoch
        elif epoch - best_epoch >= recipe.patience:
            break
    if validate:
        log.info("the best of %d epochs is epoch %d, %.5f", epoch, best_epoch, best_value)
    return best


def last_states(
    module: SASRec, params: Params, offsets: np.ndarray, events: np.ndarray, rows: int = 64
) -> np.ndarray:
    """The state after the last item of each history: float32[m, D], zeros for an empty one.

    Args:
      module: the network.
      params: its parameters.
      offsets: int[m + 1], as in `fit`; of longer histories only the newest L items are read.
      events: int[…], item indices.
      rows: packed rows run at once.
    """
    length = module.config.max_length
    states = np.zeros((len(offsets) - 1, module.config.dim), np.float32)
    known = np.flatnonzero(np.diff(offsets))
    if not len(known):
        return states
    stops = offsets[1:][known]
    bounds, chosen = _gather(np.maximum(offsets[:-1][known], stops - length), stops)
    packed, row, column = packing.pack(bounds, events[chosen], length, module.config.newest_first)
    row, column = row[bounds[1:] - 1], column[bounds[1:] - 1]
    for start in range(0, len(packed.items), rows):
        part = _padded_to(rows, *(field[start : start + rows] for field in packed))
        found = np.asarray(_states(module, params, Packed(*part)))
        here = (row >= start) & (row < start + rows)
        states[known[here]] = found[row[here] - start, column[here]]
    return states


@functools.partial(jax.jit, static_argnums=0)
def _states(module: SASRec, params: Params, packed: Packed) -> jax.Array:
    return module.apply({"params": params}, packed)


def _start(module: SASRec, recipe: Recipe) -> tuple[Params, optax.OptState]:
    dummy = Packed(*(jnp.zeros((1, module.config.max_length), jnp.int32) for _ in Packed._fields))
    params = jax.jit(module.init)(jax.random.key(recipe.seed), dummy)["params"]
    return params, _optimizer(recipe).init(params)


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(recipe.weight_decay), optax.adam(recipe.learning_rate)
    )


def _step_fn(module: SASRec, recipe: Recipe) -> Callable:
    optimizer = _optimizer(recipe)

    @functools.partial(jax.jit, donate_argnums=1)
    def step(params, opt_state, batch: Batch, key, number):
        dropout = jax.random.fold_in(key, number)
        value, gradients = jax.value_and_grad(loss, argnums=1)(
            module, params, batch.packed, batch.targets, dropout, batch.places
        )
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    return step


def _batches(
    config: SASRecConfig,
    recipe: Recipe,
    offsets: np.ndarray,
    events: np.ndarray,
    rng: np.random.Generator,
) -> Iterator[Batch]:
    """One epoch: every window once, in new company; the last batch is filled up with padding."""
    length, rows = config.max_length, recipe.rows
    starts, stops = packing.windows(offsets, length)
    order = rng.permutation(len(starts))
    bounds, chosen = _gather(starts[order], stops[order])
    packed, row, column = packing.pack(bounds, events[chosen], length, config.newest_first)
    targets = np.zeros_like(packed.items)
    targets[row, column] = events[chosen + 1]
    shuffled = rng.permutation(len(targets))
    for start in range(0, len(shuffled), rows):
        part = shuffled[start : start + rows]
        *fields, wanted = _padded_to(rows, *(field[part] for field in (*packed, targets)))
        yield Batch(Packed(*fields), wanted, None)


def _prefix_batches(
    config: SASRecConfig,
    recipe: Recipe,
    offsets: np.ndarray,
    events: np.ndarray,
    rng: np.random.Generator,
) -> Iterator[Batch]:
    """One epoch: every prefix once, in new company; rows are padded to few different numbers."""
    starts, stops = packing.prefixes(offsets, config.max_length)
    order = rng.permutation(len(starts))
    for first in range(0, len(order), recipe.samples):
        part = order[first : first + recipe.samples]
        bounds, chosen = _gather(starts[part], stops[part])
        packed, row, column = packing.pack(
            bounds, events[chosen], config.max_length, config.newest_first
        )
        rows = -(-len(packed.items) // ROW_MULTIPLE) * ROW_MULTIPLE
        last = bounds[1:] - 1
        places = np.full((recipe.samples, 2), -1, np.int32)
        places[: len(part)] = np.stack([row[last], column[last]], axis=1)
        targets = np.zeros(recipe.samples, np.int32)
        targets[: len(part)] = events[stops[part]]
        yield Batch(Packed(*_padded_to(rows, *packed)), targets, places)


def _gather(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets of slices laid end to end, and the index of each of their elements: int64 each."""
    lengths = stops - starts
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    return bounds, np.repeat(starts - bounds[:-1], lengths) + np.arange(bounds[-1])


def _padded_to(rows: int, *fields: np.ndarray) -> list[np.ndarray]:
    missing = rows - len(fields[0])
    return [np.pad(field, ((0, missing), (0, 0))) for field in fields]
