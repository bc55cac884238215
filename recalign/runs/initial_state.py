"""What a new run starts from: a checkpoint, and what is known of the items."""

import logging
from collections.abc import Iterator

import jax
import numpy as np

from recalign.domains import Domain
from recalign.engine.partitioning import put
from recalign.engine.training import side_information
from recalign.engine.training.checkpoints import read_provenance
from recalign.engine.training.model import TrainState
from recalign.engine.training.trainer import Trainer
from recalign.engine.weights.conversion import load_params, open_weights
from recalign.engine.weights.growth import NewTokens
from recalign.engine.weights.tokenizer import count_added
from recalign.evaluation.data import Data
from recalign.evaluation.examples import RetrievalExamples
from recalign.files import resolve
from recalign.runs.item_embeddings import RANDOM, ItemEmbeddings, start_item_embeddings
from recalign.runs.item_tokens import ItemTokens, new_tokens

log = logging.getLogger(__name__)


def start_state(
    fresh: TrainState,
    trainer: Trainer,
    checkpoint: str | None,
    item_tokens: ItemTokens,
    item_embeddings: ItemEmbeddings,
    data: Data,
) -> TrainState:
    """The state before the first step, laid out as a fresh one is.

    Args:
      fresh: of random parameters.
      trainer: made it.
      checkpoint: of T5X, Hugging Face or Orbax, instead of random parameters; None for those.
      item_tokens: what the rows of tokens start from that the checkpoint's vocabulary had not.
      item_embeddings: what the embeddings of items are then replaced by.
      data: has the items of every domain, and how they are written.

    Raises:
      UserError: the checkpoint cannot be read or does not fit the network, or the items do not.
    """
    params = fresh.params
    if checkpoint:
        new = _new_tokens(checkpoint, item_tokens, data, trainer.model.module.config.vocab_size)
        _, read = load_params(checkpoint, trainer.model.module.config, new)
        params = jax.tree.map(lambda value, leaf: put(value, leaf.sharding), read, params)
    if item_embeddings.start == RANDOM:
        return trainer.begin(params)
    known = side_information.find_state(fresh.opt_state)
    if known is not None:
        known = side_information.seed_state(known, trainer.seed)
    for domain, tokens in _catalogues(data):
        params, known = start_item_embeddings(params, item_embeddings, domain, tokens, known)
    state = trainer.begin(params)
    if known is None:
        return state
    return state.replace(opt_state=side_information.start(state.opt_state, known))


def _catalogues(data: Data) -> Iterator[tuple[Domain, np.ndarray]]:
    """Every domain that there is retrieval of, and how its items are written, int32[n, tokens]."""
    of_name = {
        examples.domain.name: (examples.domain, data.item_tokens(examples.task))
        for examples in data.examples("validation", 1)
        if isinstance(examples, RetrievalExamples)
    }
    yield from of_name.values()


def _new_tokens(checkpoint: str, options: ItemTokens, data: Data, rows: int) -> NewTokens | None:
    """The tokens of the vocabulary that a checkpoint may lack; None where it is of a like run.

    Where it is of a run with another vocabulary, and no rows are added for these, a warning says
    so: a row may be of another piece then.
    """
    weights = open_weights(checkpoint)
    then = read_provenance(resolve(weights.path)).get("vocabulary")
    now = data.provenance().get("vocabulary")
    if then and then == now:
        return None
    vocabulary = data.vocabulary()
    has_new = bool(count_added(vocabulary)[1])
    if then and not (has_new and weights.config["vocab_size"] < rows):
        log.warning(
            "%s was trained with another vocabulary (%s, and this run has %s): the rows of its "
            "table may be of other pieces",
            weights.path,
            then,
            now,
        )
    if not has_new:
        return None
    of_domain = {e.domain.name: e.domain for e in data.examples("validation", 1)}
    return new_tokens(vocabulary, [*of_domain.values()], options)
