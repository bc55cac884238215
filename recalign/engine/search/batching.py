"""Many examples of all lengths through a compiled function, batch by batch."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from recalign.engine import preemption, processes
from recalign.engine.partitioning import Partitioner
from recalign.progress import track

# Batches that are computed while the results of the one before are fetched.
IN_FLIGHT = 2


class Ragged(NamedTuple):
    """Rows of different lengths.

    Attributes:
      rows: int32[length] an example.
      least: the shortest that rows are padded to; the other lengths are those of `rung`.
      filler: what rows are padded with, and what stands in the rows that a batch lacks.
      halfway: as for `rung`.
    """

    rows: Sequence[np.ndarray]
    least: int
    filler: int
    halfway: bool = False


def rung(size: int, least: int, halfway: bool = False) -> int:
    """The first of the lengths `least` × 1, 2, 4, 8 and so on that is not below `size`.

    So the number of shapes that are compiled grows with the logarithm of the longest row.

    Args:
      size: what must fit.
      least: the shortest of the lengths.
      halfway: there are also `least` × 3, 6, 12, …: a third more shapes, for less padding.
    """
    top = least
    while top < size:
        top *= 2
    between = 3 * top // 4
    return between if halfway and top >= 4 * least and between >= size else top


def rungs(longest: int, least: int, halfway: bool = False) -> list[int]:
    """All that `rung` gives for sizes up to `longest`, ascending."""
    return sorted({rung(size, least, halfway) for size in range(longest + 1)})


def over_examples(
    compute: Callable[[Mapping[str, jax.Array]], Any],
    features: Mapping[str, Ragged],
    partitioner: Partitioner,
    batch_size: int,
    description: str,
) -> Any:
    """Computes something for each of m examples; those of similar length go together.

    While one batch is computed, the results of the one before are fetched and the next one is laid
    out.

    Args:
      compute: takes a batch of the features, int32[batch_size, L] each, split along "data"; gives a
        pytree of arrays [batch_size, …] that every process can read.
      features: m rows each; examples are sorted by the first one's lengths, then the next one's.
      partitioner: lays batches out.
      batch_size: examples a batch, rounded up to what the data partitions divide.
      description: of what is computed, for whoever waits.

    Returns:
      That pytree with arrays [m, …], in the order of the examples.
    """
    batch_size = partitioner.rows(batch_size)
    lengths = [[len(row) for row in feature.rows] for feature in features.values()]
    order = np.lexsort(lengths[::-1])
    starts = range(0, len(order), batch_size)
    found, computed = [], collections.deque()
    for start in track(starts, description, "batch", shown=processes.is_first()):
        preemption.safe_point()
        chosen = order[start : start + batch_size]
        batch = {name: _pad(feature, chosen, batch_size) for name, feature in features.items()}
        computed.append(compute(partitioner.put_batch(batch)))
        if len(computed) == IN_FLIGHT:
            found.append(jax.device_get(computed.popleft()))
    found += [jax.device_get(one) for one in computed]
    place = np.argsort(order, kind="stable")
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(order)][place], *found)


def _pad(feature: Ragged, chosen: np.ndarray, batch_size: int) -> np.ndarray:
    """int32[batch_size, L], the chosen rows and then filler."""
    rows = [feature.rows[row] for row in chosen]
    length = rung(max(map(len, rows)), feature.least, feature.halfway)
    padded = np.full((batch_size, length), feature.filler, np.int32)
    for row, values in zip(padded, rows, strict=False):
        row[: len(values)] = values
    return padded
