"""Many examples of all lengths through a compiled function, batch by batch."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from recalign.engine import preemption
from recalign.engine.partitioning import Partitioner


class Ragged(NamedTuple):
    """Rows of different lengths.

    Attributes:
      rows: int32[length] an example.
      multiple: what a batch's length is rounded up to, so that few shapes are compiled.
      filler: what rows are padded with, and what stands in the rows that a batch lacks.
    """

    rows: Sequence[np.ndarray]
    multiple: int
    filler: int


def over_examples(
    compute: Callable[[Mapping[str, jax.Array]], Any],
    features: Mapping[str, Ragged],
    partitioner: Partitioner,
    batch_size: int,
    description: str,
) -> Any:
    """Computes something for each of m examples; those of similar length go together.

    Args:
      compute: takes a batch of the features, int32[batch_size, L] each, split along "data"; gives a
        pytree of arrays [batch_size, …] that every process can read.
      features: m rows each; examples are sorted by the first one's lengths, then the next one's.
      partitioner: lays batches out.
      batch_size: examples a batch.
      description: of the progress bar.

    Returns:
      That pytree with arrays [m, …], in the order of the examples.
    """
    lengths = [[len(row) for row in feature.rows] for feature in features.values()]
    order = np.lexsort(lengths[::-1])
    starts = tqdm.tqdm(
        range(0, len(order), batch_size),
        desc=description,
        unit="batch",
        leave=False,
        disable=not sys.stderr.isatty(),
    )
    found = []
    for start in starts:
        preemption.safe_point()
        chosen = order[start : start + batch_size]
        batch = {name: _padded(feature, chosen, batch_size) for name, feature in features.items()}
        found.append(jax.device_get(compute(partitioner.put_batch(batch))))
    place = np.argsort(order, kind="stable")
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(order)][place], *found)


def _padded(feature: Ragged, chosen: np.ndarray, batch_size: int) -> np.ndarray:
    """int32[batch_size, L], the chosen rows and then filler."""
    rows = [feature.rows[row] for row in chosen]
    length = -(-max(1, *map(len, rows)) // feature.multiple) * feature.multiple
    padded = np.full((batch_size, length), feature.filler, np.int32)
    for row, values in zip(padded, rows, strict=False):
        row[: len(values)] = values
    return padded
