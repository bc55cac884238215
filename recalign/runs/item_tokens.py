"""What tokens of items start from in a network that did not know them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.sparse
import sentencepiece

from recalign.domains import Domain
from recalign.engine.weights.growth import NewTokens
from recalign.engine.weights.tokenizer import count_added
from recalign.errors import UserError

TITLES, RANDOM = "titles", "random"


@dataclasses.dataclass(frozen=True)
class ItemTokens:
    """How the rows of tokens start that a vocabulary was extended by (`prepare --item_tokens`).

    Attributes:
      init: 'titles', the mean of the pieces of an item's title, or of a code's items; or 'random',
        as are tokens without a title, by what the rows of the checkpoint are in each dimension.
      seed: of what is random.
    """

    init: str = TITLES
    seed: int = 0

    def __post_init__(self):
        if self.init not in (TITLES, RANDOM):
            raise UserError(f"ItemTokens.init is {self.init!r}: expected {TITLES!r} or {RANDOM!r}")


def new_tokens(vocabulary: bytes, domains: Sequence[Domain], options: ItemTokens) -> NewTokens:
    """The tokens that a vocabulary was extended by, and what they start from.

    Args:
      vocabulary: a SentencePiece model, with or without sentinels.
      domains: whose items are written in them.
      options: what to start from.
    """
    first, number = count_added(vocabulary)
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary)
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for domain in domains if options.init == TITLES else ():
        ids = processor.encode(domain.item_ids.tolist())
        titles = processor.encode(domain.items["title"].tolist())
        for own, title in zip(ids, titles, strict=True):
            own = [token - first for token in own if first <= token < first + number]
            title = [piece for piece in title if piece < first]
            rows.append(np.repeat(own, len(title)))
            columns.append(np.tile(title, len(own)))
    row, column = (np.concatenate(parts).astype(np.int64) for parts in (rows, columns))
    counts = scipy.sparse.csr_matrix((np.ones(len(row)), (row, column)), shape=(number, first))
    total = np.asarray(counts.sum(axis=1)).ravel()
    means = scipy.sparse.diags(1 / np.maximum(total, 1)) @ counts
    return NewTokens(first, means.tocsr(), options.seed)
