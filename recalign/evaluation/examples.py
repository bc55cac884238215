"""What a retrieval task asks: rank the catalogue for each history, to find the next item."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from recalign.domains import Domain


@dataclasses.dataclass(frozen=True)
class RetrievalExamples:
    """The examples of one task and split.

    Attributes:
      task: the SeqIO task.
      split: "validation" or "test".
      inputs: int32[tokens] an example, the question with EOS, without padding.
      offsets: int64[m + 1]; example e's whole history is `events[offsets[e]:offsets[e + 1]]`.
      events: int32[n], item indices, oldest first.
      targets: int32[m], the item to find.
      domain: which they come from.
      catalogue: int32[tokens] an item, how the model must write it, EOS included.
      ask: writes any other histories (item indices, oldest first, none empty) as such inputs.
    """

    task: str
    split: str
    inputs: Sequence[np.ndarray]
    offsets: np.ndarray
    events: np.ndarray
    targets: np.ndarray
    domain: Domain
    catalogue: Sequence[np.ndarray]
    ask: Callable[[Sequence[Sequence[int]]], list[np.ndarray]]

    def __len__(self) -> int:
        return len(self.targets)
