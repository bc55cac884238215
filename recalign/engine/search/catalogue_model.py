"""One network over one catalogue: it ranks the items, scores some, or answers in its own words."""

import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from recalign.engine.network.transformer import Transformer
from recalign.engine.partitioning import Partitioner, put
from recalign.engine.search.batching import Ragged, over_examples, rung, rungs
from recalign.engine.search.beam_search import Ranked
from recalign.engine.search.generation import generate_greedily
from recalign.engine.search.inference import Inference
from recalign.engine.search.retrieval import (
    look_up_attention,
    rank_exactly,
    recommend,
    retrieve,
    score_all_items,
    score_items,
)
from recalign.engine.search.saved_trie import index_of
from recalign.engine.search.scoring import chunk_widths
from recalign.engine.search.trie import PAD
from recalign.progress import track

# The fewest exclusions that there is room for: of a split's histories, most have no more; of a
# history that somebody asks about, all that may be asked has, so that one shape serves them.
SEEN, EXCLUDED = 32, 128
NO_ITEM = -1


class CatalogueModel:
    """A network over a catalogue, whose index is on the devices once, whatever is asked.

    Examples of similar length are computed together, so that little is computed on padding. What
    is compiled is compiled once for each shape, and shapes are few: lengths are padded as `rung`
    says, and batches are of one size, or of powers of two where few histories are ranked.

    Its methods take the network's parameters; `inputs`, int32[tokens] an example, questions with
    EOS; and `given`, int32[tokens] an example, what answers begin with, () for nothing in any.
    `exact` counts instead of what the options say.

    Args:
      module: the network.
      partitioner: lays parameters and batches out.
      catalogue: how each item is written, see `CatalogueIndex.build`; items may be any texts, such
        as ratings.
      options: how it is asked.
      index_folder: where the catalogue's index is kept, see `index_of`; None keeps none.

    Raises:
      UserError: as for `index_of`.
    """

    def __init__(
        self,
        module: Transformer,
        partitioner: Partitioner,
        catalogue: np.ndarray | Sequence[np.ndarray],
        options: Inference,
        index_folder: os.PathLike | None = None,
    ):
        self.num_beams = options.num_beams
        self._partitioner = partitioner
        self._options = options
        index = index_of(catalogue, index_folder, module.config.vocab_size)
        everywhere = partitioner.sharding()
        self._index = jax.tree.map(lambda leaf: put(leaf, everywhere), index)

        def compile_function(function: Callable, static: str = "", **chosen: Any) -> Callable:
            """Of (variables, inputs, …); every process reads the whole of what it gives."""
            function = functools.partial(function, module, **chosen)
            return partitioner.compile(
                function, out_shardings=everywhere, static_argnames=static.split()
            )

        beam = {"renormalise": options.renormalise}
        exact = beam | {
            "chunk": options.chunk,
            "widths": chunk_widths(index, options.chunk, options.renormalise),
        }
        # By whether every item is scored.
        self._rank = {
            False: compile_function(retrieve, "num_beams", **beam),
            True: compile_function(rank_exactly, "num_beams", **exact),
        }
        self._recommend = {
            False: compile_function(functools.partial(recommend, retrieve), "num_beams", **beam),
            True: compile_function(
                functools.partial(recommend, rank_exactly), "num_beams", **exact
            ),
        }
        self._score_all = compile_function(score_all_items, **exact)
        self._score = compile_function(score_items, renormalise=options.scoring_renormalise)
        self._look_up_attention = compile_function(look_up_attention)
        self._generate = compile_function(generate_greedily, "length")

    def rank(
        self,
        params: Any,
        inputs: Sequence[np.ndarray],
        offsets: np.ndarray,
        events: np.ndarray,
        exact: bool | None = None,
        given: Sequence[np.ndarray] = (),
    ) -> tuple[Ranked, Ranked]:
        """Two rankings for each of m histories: of all items, and of those not in the history.

        Example e has seen `events[offsets[e]:offsets[e + 1]]`, item indices int32[n], by offsets
        int64[m + 1].

        Returns:
          Twice items int32[m, num_beams], -1 in empty slots, and scores float32[m, num_beams].
        """
        features = self._features(inputs, given)
        features["seen"] = Ragged(np.split(events, offsets[1:-1]), SEEN, NO_ITEM)
        return self._compute(
            self._rank[self._options.exact if exact is None else exact],
            params,
            features,
            self._options.batch_size,
            "ranking",
            lambda batch: {"exclusions": (None, batch["seen"]), "num_beams": self.num_beams},
        )

    def best(
        self,
        params: Any,
        inputs: Sequence[np.ndarray],
        depth: int,
        given: Sequence[np.ndarray] = (),
    ) -> Ranked:
        """One ranking of all items for each of m histories.

        Returns:
          Items int32[m, depth], -1 in empty slots, and scores float32[m, depth].
        """
        beams = max(depth, self.num_beams)
        [found] = self._compute(
            self._rank[self._options.exact],
            params,
            self._features(inputs, given),
            self._rows_for(len(inputs)),
            "ranking",
            lambda batch: {"num_beams": beams},
        )
        return Ranked(found.items[:, :depth], found.scores[:, :depth])

    def recommend(
        self,
        params: Any,
        inputs: Sequence[np.ndarray],
        excluded: Sequence[Sequence[int]],
        depth: int,
        exact: bool | None = None,
        given: Sequence[np.ndarray] = (),
    ) -> tuple[Ranked, np.ndarray]:
        """One ranking for each of m histories, without the items that are excluded for it.

        Those are item indices for each history, none or more. A beam is at least `num_beams` wide,
        and few histories are not padded to a whole batch.

        Returns:
          Items int32[m, depth], -1 in empty slots, and scores float32[m, depth]; and how likely an
          answer that is an item of the catalogue is each of them, float32[m, depth], of which all
          items have the sum 1; 0 in empty slots.
        """
        beams = max(depth, self.num_beams)
        features = self._features(inputs, given)
        features["excluded"] = Ragged(excluded, EXCLUDED, NO_ITEM)
        found, probabilities = self._compute(
            self._recommend[self._options.exact if exact is None else exact],
            params,
            features,
            self._rows_for(len(inputs)),
            "ranking",
            lambda batch: {"excluded": batch["excluded"], "num_beams": beams},
        )
        return Ranked(found.items[:, :depth], found.scores[:, :depth]), probabilities[:, :depth]

    def score(
        self,
        params: Any,
        inputs: Sequence[np.ndarray],
        items: np.ndarray,
        given: Sequence[np.ndarray] = (),
    ) -> np.ndarray:
        """The log-probabilities float32[m, C] of items int32[m, C], EOS included if it ends any."""
        features = self._features(inputs, given)
        features["items"] = Ragged(items, items.shape[1], NO_ITEM)
        return self._compute(
            self._score,
            params,
            features,
            self._options.scoring_batch_size,
            "scoring",
            lambda batch: {"items": batch["items"]},
        )

    def attention(
        self,
        params: Any,
        inputs: Sequence[np.ndarray],
        given: Sequence[np.ndarray],
        items: Sequence[np.ndarray],
        room: int = 1,
    ) -> np.ndarray:
        """How much of the decoder's attention each token of a question has, float32[m, S].

        S is the length that questions are padded to; the item that is written is int32[tokens].
        Answers, what is given and the item, are padded to `room` tokens at least: one shape then
        serves all that fit.
        """

        def look_up(batch: Mapping[str, jax.Array]) -> jax.Array:
            answers = (batch["answers"], batch["written"])
            return self._look_up_attention({"params": params}, batch["inputs"], *answers)

        begun = [tokens[tokens != PAD] for tokens in given]
        answers = [np.concatenate(both) for both in zip(begun, items, strict=True)]
        longest = rung(max(map(len, answers)), room)
        features = self._features(inputs) | {
            "answers": Ragged(answers, longest, PAD),
            "written": Ragged([np.ones(len(tokens), np.int32) for tokens in items], longest, PAD),
        }
        rows = self._rows_for(len(inputs))
        return over_examples(look_up, features, self._partitioner, rows, "looking")

    def score_all(
        self, params: Any, inputs: Sequence[np.ndarray], given: Sequence[np.ndarray] = ()
    ) -> np.ndarray:
        """The score of every item, by which an exact `rank` orders them, float32[m, N].

        As many may be asked at once as have scores that fit into memory.
        """
        features = self._features(inputs, given)
        return self._compute(self._score_all, params, features, self._options.batch_size, "scoring")

    def generate(self, params: Any, inputs: Sequence[np.ndarray], length: int) -> np.ndarray:
        """Answers in the network's own words, int32[m, length], as of `generate_greedily`."""

        def generate(batch: Mapping[str, jax.Array]) -> jax.Array:
            return self._generate({"params": params}, batch["inputs"], length=length)

        features = self._features(inputs)
        return over_examples(
            generate, features, self._partitioner, self._options.batch_size, "generating"
        )

    def warm_up(
        self,
        params: Any,
        histories: Sequence[int],
        longest: int,
        most_excluded: int,
        depth: int,
        exact: bool | None = None,
        given: int = 0,
        item: int = 0,
    ) -> None:
        """Compiles all that `recommend`, and `attention` of one history, may need within bounds.

        Args:
          params: the network's.
          histories: the numbers of histories that will be ranked at once.
          longest: tokens that an input has at most.
          most_excluded: items that are excluded for a history at most.
          depth: how many items are wanted.
          exact: as in `rank`.
          given: tokens that every answer begins with, padding included.
          item: tokens that an item is written in at most, for an `attention` that has room for
            `given` and them; 0 where none is asked for.
        """
        lengths = rungs(longest, self._options.length_multiple, halfway=True)
        shapes = itertools.product(
            sorted({self._rows_for(number) for number in histories}),
            lengths,
            rungs(most_excluded, EXCLUDED),
        )
        for rows, length, width in track([*shapes], "compiling", "shape"):
            inputs = np.full((rows, length), PAD, np.int32)
            excluded = np.full((rows, width), NO_ITEM, np.int32)
            begins = np.full((rows, given), PAD, np.int32)
            self.recommend(params, inputs, excluded, depth, exact, begins)
        for length in track(lengths if item else [], "compiling reasons", "shape"):
            inputs, nothing = np.full((1, length), PAD, np.int32), np.zeros((1, 0), np.int32)
            self.attention(params, inputs, nothing, np.ones((1, item), np.int32), given + item)

    def _compute(
        self,
        function: Callable,
        params: Any,
        features: Mapping[str, Ragged],
        batch_size: int,
        what: str,
        options: Callable[[Mapping[str, jax.Array]], dict[str, Any]] = lambda batch: {},
    ) -> Any:
        """What a compiled function gives; `options` makes its others of a batch."""

        def compute(batch: Mapping[str, jax.Array]) -> Any:
            asked = {"params": params}, batch["inputs"], self._index
            return function(*asked, given=batch.get("given"), **options(batch))

        return over_examples(compute, features, self._partitioner, batch_size, what)

    def _features(
        self, inputs: Sequence[np.ndarray], given: Sequence[np.ndarray] = ()
    ) -> dict[str, Ragged]:
        """Questions, and what their answers begin with where any does."""
        asked = {"inputs": Ragged(inputs, self._options.length_multiple, PAD, halfway=True)}
        if any(len(tokens) for tokens in given):
            asked["given"] = Ragged(given, 1, PAD)
        return asked

    def _rows_for(self, histories: int) -> int:
        """The rows of a batch: powers of two for few histories, so that few shapes compile."""
        few = rung(histories, self._partitioner.data_partitions)
        return min(few, self._partitioner.rows(self._options.batch_size))
