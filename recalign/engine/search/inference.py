"""How a trained network is asked: what a recipe may choose of it."""

import dataclasses

from recalign.errors import UserError, check_positive


@dataclasses.dataclass(frozen=True)
class Inference:
    """Options of a `CatalogueModel`.

    Attributes:
      num_beams: items in each ranking.
      batch_size: histories ranked, or answers generated, at once.
      length_multiple: the least length that inputs are padded to; see `batching.rung`.
      exact: scores every item instead of searching with a beam: nothing can be missed, and the cost
        grows with the catalogue.
      chunk: in exact scoring, how many items a history are scored at a time.
      renormalise: takes the probabilities of what may follow a prefix of an item over that alone,
        instead of over the vocabulary: the scores of all items sum to one.
      scoring_batch_size: examples whose candidates are scored at once. Their logits are most of the
        memory: scoring_batch_size × items of an example × vocabulary × 4 bytes.
      scoring_renormalise: as `renormalise`, for the scores of candidates.

    Raises:
      UserError: a number is below 1.
    """

    num_beams: int = 20
    batch_size: int = 64
    length_multiple: int = 128
    exact: bool = False
    chunk: int = 500
    renormalise: bool = False
    scoring_batch_size: int = 32
    scoring_renormalise: bool = False

    def __post_init__(self):
        if self.num_beams < 1:
            raise UserError(f"NUM_BEAMS is {self.num_beams}, but a ranking needs at least 1")
        for name in ("batch_size", "length_multiple", "chunk", "scoring_batch_size"):
            check_positive(f"Inference.{name}", getattr(self, name))
