"""What the parameters of a new run start from: a checkpoint, and what is known of the items."""

from typing import Any

import jax

from recalign.engine.network.config import T5Config
from recalign.engine.partitioning import put
from recalign.engine.weights.conversion import load_params
from recalign.evaluation.data import Data
from recalign.evaluation.examples import RetrievalExamples
from recalign.runs.item_embeddings import RANDOM, ItemEmbeddings, start_item_embeddings


def start_params(
    fresh: Any,
    config: T5Config,
    checkpoint: str | None,
    item_embeddings: ItemEmbeddings,
    data: Data,
) -> Any:
    """Parameters laid out as fresh ones are.

    Args:
      fresh: random ones of the network.
      config: the network's.
      checkpoint: of T5X, Hugging Face or Orbax, instead of random ones; None for those.
      item_embeddings: what the embeddings of items are then replaced by.
      data: has the items of every domain, and how they are written.

    Raises:
      UserError: the checkpoint cannot be read or does not fit the network, or the items do not.
    """
    params = fresh
    if checkpoint:
        _, read = load_params(checkpoint, config)
        params = jax.tree.map(lambda value, leaf: put(value, leaf.sharding), read, fresh)
    if item_embeddings.start == RANDOM:
        return params
    of_domain = {
        examples.domain.name: (examples.domain, data.item_tokens(examples.task))
        for examples in data.examples("validation", 1)
        if isinstance(examples, RetrievalExamples)
    }
    for domain, tokens in of_domain.values():
        params = start_item_embeddings(params, item_embeddings, domain, tokens)
    return params
