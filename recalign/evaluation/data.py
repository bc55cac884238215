"""What a run is fed and asked: one interface for SeqIO's tasks and for a folder of tokens."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from etils import epath

from recalign.evaluation.examples import ALONE, Asked, Examples, Share


class Questions(Protocol):
    """Asks about histories (item indices, oldest first, none empty)."""

    @property
    def longest(self) -> int:
        """The most tokens that a question has."""

    def __call__(self, histories: Sequence[Sequence[int]]) -> Asked:
        """The question about each history."""

    def places(self, history: Sequence[int], inputs: np.ndarray) -> list[slice]:
        """Where each item of a history stands in the question about it, empty where it does not.

        Args:
          history: that was asked about.
          inputs: int32[tokens], the question.
        """


class Batches(Iterator[Mapping[str, np.ndarray]], Protocol):
    """Endless batches, or some rows of each, whose position can be kept."""

    def __next__(self) -> Mapping[str, np.ndarray]:
        """int32[rows, length] of each of SeqIO's encoder-decoder features."""

    def save(self, path: epath.PathLike) -> None:
        """Writes the position, or the part of it that this process answers for."""

    def restore(self, path: epath.PathLike) -> None:
        """Goes to a position that was saved."""


class Data(Protocol):
    """All that a run reads. Made in no time: what a method needs is read when it is called."""

    def batch_shapes(self) -> dict[str, tuple[int, int]]:
        """The shape of each feature of a batch, which is int32."""

    def train_batches(
        self, held: np.ndarray | None = None, own: np.ndarray | None = None
    ) -> Batches:
        """Batches to train on, from the first one; their order is a function of the seed.

        Which rows a process takes changes none: together, processes have the batches that one has.

        Args:
          held: int64[h], the rows of each batch that are given; by default all.
          own: those of them that no other process answers for; by default all.
        """

    def examples(
        self,
        split: str,
        num_examples: int | None = None,
        task: str | None = None,
        share: Share = ALONE,
    ) -> list[Examples]:
        """The examples of a split, of each task that can be evaluated.

        Args:
          split: "validation" or "test".
          num_examples: at most so many of each task, the first ones; None takes all.
          task: this one alone.
          share: what of them this process makes, where several ask for the same; whatever that
            is, each gets all.

        Raises:
          UserError: no task can be evaluated, or not the one that is asked for.
        """

    def item_tokens(self, task: str) -> np.ndarray:
        """How the model must write each item in a task, int32[n, L], 0 padded.

        EOS is included if it ends them, which it does in all or in none.
        """

    def questions(self, task: str) -> Questions:
        """What asks a retrieval task about any history.

        Raises:
          UserError: no other histories than those of the examples can be asked about.
        """

    def decode(self, tokens: Sequence[int]) -> str:
        """Token ids as text, up to EOS."""

    def vocabulary(self) -> bytes:
        """The SentencePiece model that wrote the tokens, serialised."""

    def vocabulary_size(self) -> int:
        """How many token ids there may be, sentinels included.

        Raises:
          UserError: what is to be read is not prepared.
        """

    def idle(self) -> Collection[str]:
        """What would make the samples that a mixture's rates leave out, by whole names.

        To configure "recalign.samples.bpr.bpr" is then no mistake.
        """

    def provenance(self) -> dict[str, str]:
        """What parameters that are trained on this belong to: names and fingerprints."""
