"""SeqIO's tasks as the `Data` of a run, see `recalign.evaluation.data`."""

import contextlib
import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Self

import gin
import numpy as np
import seqio

from recalign.bindings import Bindings
from recalign.evaluation.examples import ALONE, Examples, Share
from recalign.samples import inputs, judged
from recalign.samples.items import item_texts
from recalign.samples.questions import Questions
from recalign.samples.registry import domain_of, domains_in


@gin.configurable
class SeqioData:
    """A task or mixture, read live.

    SeqIO builds a pipeline of functions that gin configures at that moment. Ours are built under
    the bindings that this was made with, whatever is parsed in between.

    Args:
      mixture_or_task_name: as registered with SeqIO.
      task_feature_lengths: the lengths of "inputs" and "targets"; longer ones are cut.
      batch_size: rows a batch; packed, a row holds as many samples as fit.
      seed: decides order, masks, negatives and paraphrases in training.
      module: imported first, so that it can register tasks.
      pack: several samples a row, told apart by segment ids.
      use_cached: trains on what `seqio_cache_tasks` wrote, see `inputs.train_batches`.
      cache_dirs: further folders to look for these caches in, beside SeqIO's own.
      streams: in so many parts batches are made, each by one process; see `inputs.train_batches`.
    """

    def __init__(
        self,
        mixture_or_task_name: str,
        task_feature_lengths: Mapping[str, int],
        batch_size: int,
        seed: int = 0,
        module: str | None = None,
        pack: bool = True,
        use_cached: bool = False,
        cache_dirs: Sequence[str] = (),
        streams: int = 1,
    ):
        self.name, self.module = mixture_or_task_name, module
        self._lengths = dict(task_feature_lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._pack = pack
        self._use_cached, self._cache_dirs = use_cached, cache_dirs
        self._streams = streams
        self._bindings = Bindings.in_force()
        self._folder: str | None = None
        self._provenance: dict[str, str] | None = None

    def of_domains_in(self, folder: str, provenance: Mapping[str, str]) -> Self:
        """The same with the domains that are prepared in a folder, whatever else is registered.

        Args:
          folder: where they are; others stay where they were.
          provenance: what parameters belong to that can be asked about them.
        """
        other = copy.copy(self)
        other._folder, other._provenance = folder, dict(provenance)
        return other

    @contextlib.contextmanager
    def _active(self) -> Iterator[None]:
        """What pipelines are made under."""
        with self._bindings.active(), domains_in(self._folder):
            yield

    def batch_shapes(self) -> dict[str, tuple[int, int]]:
        """See `Data`; those of `seqio.EncDecFeatureConverter`."""
        inputs_length, targets_length = self._lengths["inputs"], self._lengths["targets"]
        lengths = {
            "encoder_input_tokens": inputs_length,
            "decoder_input_tokens": targets_length,
            "decoder_target_tokens": targets_length,
            "decoder_loss_weights": targets_length,
        }
        if self._pack:
            for feature in ("segment_ids", "positions"):
                lengths |= {
                    f"encoder_{feature}": inputs_length,
                    f"decoder_{feature}": targets_length,
                }
        return {name: (self._batch_size, length) for name, length in lengths.items()}

    def train_batches(
        self, held: np.ndarray | None = None, own: np.ndarray | None = None
    ) -> inputs.Batches:
        """See `Data`."""
        with self._active():
            return inputs.train_batches(
                self.name,
                self._lengths,
                self._batch_size,
                self._seed,
                self.module,
                pack=self._pack,
                use_cached=self._use_cached,
                cache_dirs=self._cache_dirs,
                streams=self._streams,
                held=held,
                own=own,
            )

    def examples(
        self,
        split: str,
        num_examples: int | None = None,
        task: str | None = None,
        share: Share = ALONE,
    ) -> list[Examples]:
        """See `Data`; those of retrieval, ranking and rating tasks."""
        with self._active():
            return judged.examples(
                self.name, self._lengths, split, self.module, num_examples, task, share
            )

    def item_tokens(self, task: str) -> np.ndarray:
        """See `Data`."""
        with self._active():
            return item_texts(*domain_of(self._task(task))).target_tokens

    def questions(self, task: str) -> Questions:
        """See `Data`."""
        with self._active():
            return Questions(self._task(task), self._lengths)

    def decode(self, tokens: Sequence[int]) -> str:
        """See `Data`."""
        return self._vocabulary().decode(list(tokens))

    def vocabulary(self) -> bytes:
        """See `Data`."""
        return self._vocabulary().sp_model

    def vocabulary_size(self) -> int:
        """See `Data`."""
        with self._active():
            return inputs.vocabulary_size(self.name, self.module)

    def idle(self) -> Collection[str]:
        """See `Data`."""
        with self._active():
            return inputs.idle(inputs.mixture_or_task(self.name, self.module))

    def provenance(self) -> dict[str, str]:
        """See `Data`."""
        return self._provenance or inputs.provenance(self.name, self.module)

    def _vocabulary(self) -> seqio.Vocabulary:
        with self._active():
            provider = inputs.mixture_or_task(self.name, self.module)
            return provider.output_features["targets"].vocabulary

    def _task(self, name: str) -> seqio.Task:
        [found] = [
            task
            for task in inputs.tasks_of(inputs.mixture_or_task(self.name, self.module))
            if task.name == name
        ]
        return found
