"""Embeddings of item tokens that start from what is known of the items."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recalign.domains import Domain, vectors
from recalign.engine.search.trie import EOS
from recalign.engine.training.side_information import SideInformationState
from recalign.errors import UserError

RANDOM = "random"
# What is left of random embeddings beside vectors that the optimiser knows of.
OWN = 0.3


@dataclasses.dataclass(frozen=True)
class ItemEmbeddings:
    """How the embeddings of item tokens start in a new run.

    Attributes:
      start: 'random', like all others; 'titles' (with brands and categories), 'co_occurrence' (of
        train events) or 'both', or a file of vectors, see `vectors.item_vectors`.
      seed: of the rotation that vectors are turned by, and of what they are filled up with.
    """

    start: str = RANDOM
    seed: int = 0


def start_item_embeddings(
    params: Any,
    options: ItemEmbeddings,
    domain: Domain,
    catalogue: np.ndarray,
    known: SideInformationState | None = None,
) -> tuple[Any, SideInformationState | None]:
    """Parameters in which the embeddings of item tokens come from vectors of the items.

    The vectors are turned by a random rotation, so that no dimension is more of one thing than
    another, and have the mean and the deviation of the whole table. All other rows stay as they
    are. Where the optimiser knows of vectors, embeddings are what its kernel makes of them, and a
    part `OWN` of what they were.

    Args:
      params: the network's.
      options: which vectors.
      domain: the items and the train events that they are made from.
      catalogue: int32[n, tokens], how items are written, as in `RetrievalExamples`.
      known: of the optimiser; None where embeddings are trained one by one.

    Returns:
      The parameters, and what the optimiser is to know.

    Raises:
      UserError: an item has no token of its own, or a file of vectors does not fit.
    """
    vectors.check_source("ItemEmbeddings.start", options.start, [RANDOM])
    if options.start == RANDOM:
        return params, known
    tokens = _own_tokens(catalogue)
    table = params["token_embedder"]["embedding"]
    size = table.shape[1] if known is None else len(known.kernel)
    vectors_of_items = embeddings(options, domain, size)

    def replace(table: jax.Array, known: SideInformationState | None):
        rows = vectors_of_items * jnp.std(table)
        if known is None:
            return table.at[tokens].set(rows + jnp.mean(table)), None
        known = known._replace(vectors=known.vectors.at[tokens].set(rows))
        return table.at[tokens].set(OWN * table[tokens] + rows @ known.kernel), known

    shardings = jax.tree.map(lambda leaf: leaf.sharding, (table, known))
    table, known = jax.jit(replace, out_shardings=shardings)(table, known)
    embedder = {**params["token_embedder"], "embedding": table}
    return {**params, "token_embedder": embedder}, known


def embeddings(options: ItemEmbeddings, domain: Domain, size: int) -> np.ndarray:
    """Vectors of all items, float32[n, size], of mean 0 and deviation 1.

    What a small catalogue, or a file, has too few components for is random.
    """
    stream = np.random.default_rng(options.seed)
    known = vectors.item_vectors(options.start, domain.items, *domain.train(), size)
    spare = stream.normal(size=(domain.num_items, size - known.shape[1]))
    rotation, _ = np.linalg.qr(stream.normal(size=(size, size)))
    turned = np.concatenate([known, spare], axis=1) @ rotation
    return (turned / turned.std()).astype(np.float32)


def _own_tokens(catalogue: np.ndarray) -> np.ndarray:
    """int32[n], each item's only token."""
    written = np.where(catalogue == EOS, 0, catalogue)
    if (longest := np.count_nonzero(written, axis=1)).max() > 1:
        raise UserError(
            f"ItemEmbeddings.start needs a token for each item, but item {longest.argmax()} is "
            f"written in {longest.max()}: prepare the domain with a vocabulary of its own "
            "(--vocab_size N) and answer with ids (item_texts.target_form='id')"
        )
    return written[:, 0].astype(np.int32)
