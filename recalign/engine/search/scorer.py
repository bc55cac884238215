"""Exact log-probabilities of given items for many histories, batch by batch."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from recalign.engine.network.transformer import Transformer
from recalign.engine.partitioning import Partitioner, put
from recalign.engine.search.batching import Ragged, over_examples
from recalign.engine.search.retrieval import score_items
from recalign.engine.search.saved_trie import index_of


class Scorer:
    """Scores a few items an example with one network, compiled once for each shape.

    Args:
      module: the network.
      partitioner: lays parameters and batches out.
      catalogue: how each item is written, see `CatalogueIndex.build`; items may be any texts, such
        as ratings.
      batch_size: examples scored at once. Their logits are most of the memory: batch_size × items
        of an example × vocabulary × 4 bytes.
      length_multiple: what input lengths are rounded up to.
      renormalise: as for `Retriever`.
      index_folder: where the catalogue's index is kept, see `index_of`; None keeps none.
    """

    def __init__(
        self,
        module: Transformer,
        partitioner: Partitioner,
        catalogue: np.ndarray | Sequence[np.ndarray],
        batch_size: int = 32,
        length_multiple: int = 128,
        renormalise: bool = False,
        index_folder: os.PathLike | None = None,
    ):
        self._partitioner = partitioner
        self._batch_size = batch_size
        self._multiple = length_multiple
        index = index_of(catalogue, index_folder, module.config.vocab_size)
        everywhere = partitioner.sharding()
        self._index = jax.tree.map(lambda leaf: put(leaf, everywhere), index)
        score = functools.partial(score_items, module, renormalise=renormalise)
        self._score = jax.jit(score, out_shardings=everywhere)

    def score(self, params: Any, inputs: Sequence[np.ndarray], items: np.ndarray) -> np.ndarray:
        """The log-probability of each item, EOS included, float32[m, C].

        Args:
          params: the network's.
          inputs: int32[tokens] an example, the question with EOS.
          items: int32[m, C], positions in the catalogue.
        """
        features = {
            "inputs": Ragged(inputs, self._multiple, 0),
            "items": Ragged(items, 1, -1),
        }

        def score(batch: Mapping[str, jax.Array]) -> jax.Array:
            return self._score({"params": params}, batch["inputs"], self._index, batch["items"])

        return over_examples(score, features, self._partitioner, self._batch_size, "scoring")
