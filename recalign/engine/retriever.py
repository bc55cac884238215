"""Ranks the catalogue for many histories, batch by batch."""

import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from recalign.engine.beam_search import Ranked
from recalign.engine.catalogue import CatalogueIndex
from recalign.engine.network import Transformer
from recalign.engine.partitioning import Partitioner, put
from recalign.engine.retrieval import retrieve_all_and_unseen

# Few histories are longer than this, so that there is mostly one shape.
SEEN_MULTIPLE = 32


class Retriever:
    """Beam search over one catalogue with one network, compiled once for each shape.

    Histories of similar length are searched together, padded to a multiple of `length_multiple`, so
    that little is computed on padding and few shapes are compiled.

    Args:
      module: the network.
      partitioner: lays parameters and batches out.
      catalogue: int32[tokens] an item, EOS included.
      num_beams: items in each ranking.
      batch_size: histories searched at once.
      length_multiple: what input lengths are rounded up to.
    """

    def __init__(
        self,
        module: Transformer,
        partitioner: Partitioner,
        catalogue: Sequence[np.ndarray],
        num_beams: int = 20,
        batch_size: int = 64,
        length_multiple: int = 128,
    ):
        self._partitioner = partitioner
        self._batch_size = batch_size
        self._multiple = length_multiple
        index = CatalogueIndex.build(catalogue, module.config.vocab_size)
        everywhere = partitioner.sharding()
        self._index = jax.tree.map(lambda leaf: put(leaf, everywhere), index)
        self._search = jax.jit(
            functools.partial(retrieve_all_and_unseen, module, num_beams=num_beams),
            out_shardings=everywhere,  # every process reads the whole ranking
        )

    def rank(
        self, params: Any, inputs: Sequence[np.ndarray], offsets: np.ndarray, events: np.ndarray
    ) -> tuple[Ranked, Ranked]:
        """Two rankings for each of m histories: of all items, and of those not in the history.

        Args:
          params: the network's.
          inputs: int32[tokens] an example, the question with EOS.
          offsets: int64[m + 1]; example e has seen `events[offsets[e]:offsets[e + 1]]`.
          events: int32[n], item indices.

        Returns:
          Twice items int32[m, num_beams], -1 in empty slots, and scores float32[m, num_beams].
        """
        order = np.lexsort((np.diff(offsets), [len(tokens) for tokens in inputs]))
        found = [
            jax.device_get(self._search({"params": params}, tokens, self._index, seen=seen))
            for tokens, seen in self._batches(order, inputs, offsets, events)
        ]
        rank_of = np.argsort(order, kind="stable")
        return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(order)][rank_of], *found)

    def _batches(
        self,
        order: np.ndarray,
        inputs: Sequence[np.ndarray],
        offsets: np.ndarray,
        events: np.ndarray,
    ) -> Iterator[tuple[jax.Array, jax.Array]]:
        """Tokens int32[B, S] and seen items int32[B, E] of the examples, in the given order."""
        starts = tqdm.tqdm(
            range(0, len(order), self._batch_size),
            desc="ranking",
            unit="batch",
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        for start in starts:
            rows = order[start : start + self._batch_size]
            histories = [events[offsets[row] : offsets[row + 1]] for row in rows]
            batch = {
                "inputs": self._padded([inputs[row] for row in rows], self._multiple, 0),
                "seen": self._padded(histories, SEEN_MULTIPLE, -1),
            }
            batch = self._partitioner.put_batch(batch)
            yield batch["inputs"], batch["seen"]

    def _padded(self, rows: Sequence[np.ndarray], multiple: int, filler: int) -> np.ndarray:
        """int32[batch_size, L], L a multiple of `multiple`; rows that are missing are filler."""
        longest = max(1, *map(len, rows))
        length = -(-longest // multiple) * multiple
        padded = np.full((self._batch_size, length), filler, np.int32)
        for row, values in zip(padded, rows, strict=False):
            row[: len(values)] = values
        return padded
