"""Ranks the catalogue for many histories, batch by batch."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from recalign.engine.network.transformer import Transformer
from recalign.engine.partitioning import Partitioner, put
from recalign.engine.search.batching import Ragged, over_examples
from recalign.engine.search.beam_search import Ranked
from recalign.engine.search.retrieval import (
    rank_exactly,
    rank_exactly_all_and_unseen,
    retrieve,
    retrieve_all_and_unseen,
)
from recalign.engine.search.saved_trie import index_of
from recalign.engine.search.scoring import chunk_widths
from recalign.errors import UserError

# Few histories are longer than this, so that there is mostly one shape.
SEEN_MULTIPLE = 32


class Retriever:
    """Ranks one catalogue with one network, compiled once for each shape.

    Histories of similar length are searched together, padded to a multiple of `length_multiple`, so
    that little is computed on padding and few shapes are compiled.

    Args:
      module: the network.
      partitioner: lays parameters and batches out.
      catalogue: how each item is written, see `CatalogueIndex.build`.
      num_beams: items in each ranking.
      batch_size: histories searched at once.
      length_multiple: what input lengths are rounded up to.
      exact: scores every item instead of searching with a beam: nothing can be missed, and the cost
        grows with the catalogue.
      chunk: in exact scoring, how many items a history are scored at a time.
      renormalise: takes the probabilities of what may follow a prefix of an item over that alone,
        instead of over the vocabulary: the scores of all items sum to one.
      index_folder: where the catalogue's index is kept, see `index_of`; None keeps none.

    Raises:
      UserError: `num_beams` is below 1.
    """

    def __init__(
        self,
        module: Transformer,
        partitioner: Partitioner,
        catalogue: np.ndarray | Sequence[np.ndarray],
        num_beams: int = 20,
        batch_size: int = 64,
        length_multiple: int = 128,
        exact: bool = False,
        chunk: int = 500,
        renormalise: bool = False,
        index_folder: os.PathLike | None = None,
    ):
        if num_beams < 1:
            raise UserError(f"NUM_BEAMS is {num_beams}, but a ranking needs at least 1")
        self.num_beams = num_beams
        self._partitioner = partitioner
        self._batch_size = batch_size
        self._multiple = length_multiple
        index = index_of(catalogue, index_folder, module.config.vocab_size)
        everywhere = partitioner.sharding()
        self._index = jax.tree.map(lambda leaf: put(leaf, everywhere), index)
        one, two = retrieve, retrieve_all_and_unseen
        options = {"renormalise": renormalise}
        if exact:
            one, two = rank_exactly, rank_exactly_all_and_unseen
            options |= {"chunk": chunk, "widths": chunk_widths(index, chunk, renormalise)}
        # Every process reads the whole ranking.
        compiled = functools.partial(jax.jit, static_argnames="num_beams", out_shardings=everywhere)
        self._one = compiled(functools.partial(one, module, **options))
        self._two = compiled(functools.partial(two, module, **options))

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
        search = functools.partial(self._two, num_beams=self.num_beams)
        seen = np.split(events, offsets[1:-1])
        return self._in_batches(
            lambda tokens, items: search({"params": params}, tokens, self._index, seen=items),
            (inputs, seen),
            self._batch_size,
        )

    def best(
        self,
        params: Any,
        inputs: Sequence[np.ndarray],
        excluded: Sequence[Sequence[int]],
        depth: int,
    ) -> Ranked:
        """One ranking for each of m histories, without the items that are excluded for it.

        A beam is at least `num_beams` wide, and few histories are not padded to a whole batch.

        Args:
          params: the network's.
          inputs: as in `rank`.
          excluded: item indices for each history, none or more.
          depth: how many items are wanted.

        Returns:
          Items int32[m, depth], -1 in empty slots, and scores float32[m, depth].
        """
        search = functools.partial(self._one, num_beams=max(depth, self.num_beams))
        found = self._in_batches(
            lambda tokens, items: search({"params": params}, tokens, self._index, excluded=items),
            (inputs, excluded),
            self._rows_for(len(inputs)),
        )
        return Ranked(found.items[:, :depth], found.scores[:, :depth])

    def _rows_for(self, histories: int) -> int:
        """The rows of a batch: powers of two for few histories, so that few shapes compile."""
        rows = self._partitioner.data_partitions
        while rows < min(histories, self._batch_size):
            rows *= 2
        return min(rows, self._batch_size)

    def _in_batches(
        self,
        search: Callable[[jax.Array, jax.Array], Any],
        examples: tuple[Sequence[np.ndarray], Sequence[Sequence[int]]],
        batch_size: int,
    ) -> Any:
        """Searches for each example, given its input int32[B, S] and its items int32[B, E]."""
        inputs, items = examples
        features = {
            "inputs": Ragged(inputs, self._multiple, 0),
            "items": Ragged(items, SEEN_MULTIPLE, -1),
        }

        def compute(batch: Mapping[str, jax.Array]) -> Any:
            return search(batch["inputs"], batch["items"])

        return over_examples(compute, features, self._partitioner, batch_size, "ranking")
