"""Ranks the catalogue for many histories, batch by batch."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from recalign.engine.batching import Ragged, over_examples
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
        features = {
            "inputs": Ragged(inputs, self._multiple, 0),
            "seen": Ragged(np.split(events, offsets[1:-1]), SEEN_MULTIPLE, -1),
        }

        def search(batch: Mapping[str, jax.Array]) -> tuple[Ranked, Ranked]:
            variables = {"params": params}
            return self._search(variables, batch["inputs"], self._index, seen=batch["seen"])

        return over_examples(search, features, self._partitioner, self._batch_size, "ranking")
