"""What the parameters of a new run start from: a checkpoint, and what is known of the items."""

from typing import Any

import jax
from etils import epath

from recalign.engine.network.config import T5Config
from recalign.engine.partitioning import put
from recalign.engine.training.checkpoints import read_provenance
from recalign.engine.weights.conversion import load_params, open_weights
from recalign.engine.weights.growth import NewTokens
from recalign.engine.weights.tokenizer import count_added
from recalign.evaluation.data import Data
from recalign.evaluation.examples import RetrievalExamples
from recalign.runs.item_embeddings import RANDOM, ItemEmbeddings, start_item_embeddings
from recalign.runs.item_tokens import ItemTokens, new_tokens


def start_params(
    fresh: Any,
    config: T5Config,
    checkpoint: str | None,
    item_tokens: ItemTokens,
    item_embeddings: ItemEmbeddings,
    data: Data,
) -> Any:
    """Parameters laid out as fresh ones are.

    Args:
      fresh: random ones of the network.
      config: the network's.
      checkpoint: of T5X, Hugging Face or Orbax, instead of random ones; None for those.
      item_tokens: what the rows of tokens start from that the checkpoint's vocabulary had not.
      item_embeddings: what the embeddings of items are then replaced by.
      data: has the items of every domain, and how they are written.

    Raises:
      UserError: the checkpoint cannot be read or does not fit the network, or the items do not.
    """
    params = fresh
    if checkpoint:
        _, read = load_params(checkpoint, config, _new_tokens(checkpoint, item_tokens, data))
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


def _new_tokens(checkpoint: str, options: ItemTokens, data: Data) -> NewTokens | None:
    """The tokens of the vocabulary that a checkpoint may lack; None where it is of a like run."""
    made_from = read_provenance(epath.Path(open_weights(checkpoint).path))
    if made_from and made_from.get("vocabulary") == data.provenance().get("vocabulary"):
        return None
    vocabulary = data.vocabulary()
    if not count_added(vocabulary)[1]:
        return None
    of_domain = {e.domain.name: e.domain for e in data.examples("validation", 1)}
    return new_tokens(vocabulary, [*of_domain.values()], options)
