"""A table grows by rows for the tokens that its vocabulary was extended by.

A vocabulary is extended after its pieces and before its sentinels, which come after all. So what
was a row stays one, bit by bit, and those of the sentinels move with them.
"""

import dataclasses
import logging

import numpy as np
import scipy.sparse

from recalign.engine.weights.tensor import Flat
from recalign.engine.weights.tokenizer import SENTINELS
from recalign.errors import UserError

log = logging.getLogger(__name__)

TABLE, HEAD = "token_embedder/embedding", "decoder/logits_dense/kernel"
PAD_TOKEN = 0
# Tables have rows beside those of tokens, to a multiple of this, so that they divide well.
MULTIPLE = 128


@dataclasses.dataclass(frozen=True, eq=False)
class NewTokens:
    """The tokens that a vocabulary was extended by, and what their rows start from.

    Attributes:
      first: how many pieces the vocabulary had before, which is the first new token.
      means: float64[new, first], the weights of old rows in each new one; where they are all 0, it
        is random, with the mean and the deviation that old rows have in each dimension.
      seed: of what is random.
    """

    first: int
    means: scipy.sparse.csr_matrix
    seed: int = 0

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def rows_before(self) -> range:
        """How many rows the table of the vocabulary may have had before it was extended."""
        tokens = self.first + SENTINELS
        return range(tokens, -(-tokens // MULTIPLE) * MULTIPLE + 1)


def check_grows(tokens: NewTokens, rows: int) -> None:
    """Refuses a number of rows by which nobody can tell whether a table has grown already."""
    if rows in tokens.rows_before:
        raise UserError(
            f"VOCAB_SIZE is {rows:,}, as it may have been before the vocabulary was extended by "
            f"{len(tokens):,} tokens, so that nothing tells whether a checkpoint has rows for "
            f"them: set it to {rows_for(tokens.first, len(tokens)):,}"
        )


def rows_for(first: int, new: int) -> int:
    """How many rows a network needs, to a multiple, for a vocabulary with so many new tokens.

    With new tokens they are more than there were before, so that it shows in them.

    Args:
      first: how many pieces it had before.
      new: by how many it was extended.
    """
    before, after = (-(-(n + SENTINELS) // MULTIPLE) * MULTIPLE for n in (first, first + new))
    return max(after, before + MULTIPLE) if new else after


def grow(path: str, tensors: Flat, tokens: NewTokens, rows: int) -> Flat:
    """The parameters of a checkpoint with rows for new tokens, in the table and in the output.

    Rows of tokens that the vocabulary had are bit-equal; the network's further rows are copies of
    the padding token's, as in `conversion.with_rows`.

    Raises:
      UserError: the table is not that of the vocabulary before it was extended, or the network has
        no room for the new tokens.
    """
    has, needed = tensors[TABLE].shape[0], tokens.first + len(tokens) + SENTINELS
    if has not in tokens.rows_before:
        raise UserError(
            f"{path} has {has:,} vocabulary rows, but the vocabulary had {tokens.first:,} pieces "
            f"and {SENTINELS} sentinels before it was extended by {len(tokens):,}: it is another's"
        )
    if rows < needed:
        raise UserError(
            f"the vocabulary has {needed:,} token ids, {len(tokens):,} new ones included, but the "
            f"model only {rows:,} rows (VOCAB_SIZE)"
        )
    check_grows(tokens, rows)
    log.info("%s: %d rows for new tokens, %d before", path, len(tokens), has)
    after = tokens.first + len(tokens)
    index = np.full(rows, PAD_TOKEN)
    index[: tokens.first] = np.arange(tokens.first)
    index[after : after + SENTINELS] = np.arange(tokens.first, tokens.first + SENTINELS)

    def grown(table: np.ndarray, stream: np.random.Generator) -> np.ndarray:
        known = table[: tokens.first].astype(np.float64)
        new = tokens.means @ known
        unknown = np.flatnonzero(np.asarray(tokens.means.sum(axis=1)).ravel() == 0)
        drawn = stream.normal(size=(len(unknown), table.shape[1]))
        new[unknown] = known.mean(axis=0) + known.std(axis=0) * drawn
        table = table[index]
        table[tokens.first : after] = new
        return table

    found = dict(tensors)
    for number, (name, turned) in enumerate(((TABLE, False), (HEAD, True))):
        if name not in tensors:
            continue  # the output is the table

        def read(name=name, turned=turned, number=number) -> np.ndarray:
            stored = tensors[name].read()
            stream = np.random.default_rng((tokens.seed, number))
            return grown(stored.T, stream).T if turned else grown(stored, stream)

        width = tensors[name].shape[0 if turned else 1]
        shape = (width, rows) if turned else (rows, width)
        found[name] = dataclasses.replace(tensors[name], shape=shape, read=read)
    return found
