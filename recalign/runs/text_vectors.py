"""Vectors of texts by a T5's encoder, from a checkpoint with its vocabulary beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece

from recalign.engine.network.config import T5Config
from recalign.engine.network.transformer import Transformer
from recalign.engine.partitioning import Partitioner
from recalign.engine.search.batching import Ragged, over_examples
from recalign.engine.search.trie import EOS, PAD
from recalign.engine.weights import tokenizer
from recalign.engine.weights.conversion import load_params
from recalign.errors import UserError
from recalign.files import resolve

LONGEST = 128  # tokens of a text; what comes after them says little of an item
BATCH = 64


def encode_texts(checkpoint: str, texts: Sequence[str]) -> np.ndarray:
    """The mean of the encoder's states over each text's tokens, EOS included, float32[n, E].

    Args:
      checkpoint: a folder of transformers', or another that `spiece.model` lies in.
      texts: of any length; no more than `LONGEST` tokens of each are read.

    Raises:
      UserError: there is no checkpoint, or no vocabulary that fits it.
    """
    config, params = load_params(checkpoint)
    module = Transformer(T5Config(**config, dtype="float32", dropout_rate=0.0))
    vocabulary = resolve(checkpoint) / tokenizer.VOCABULARY
    if not vocabulary.exists():
        raise UserError(
            f"{checkpoint} has no vocabulary ({tokenizer.VOCABULARY}) beside its parameters: copy "
            "theirs into it, or let `recalign convert … --to hf` write both"
        )
    model = vocabulary.read_bytes()
    tokenizer.check_fits(model, module.config.vocab_size)
    found = sentencepiece.SentencePieceProcessor(model_proto=model).encode([*texts])
    rows = [np.array([*tokens[: LONGEST - 1], EOS], np.int32) for tokens in found]
    partitioner = Partitioner()

    def encode(params: Any, tokens: jax.Array) -> jax.Array:
        states = module.apply({"params": params}, tokens, enable_dropout=False, method="encode")
        real = (tokens != PAD).astype(jnp.float32)
        return jnp.einsum("bse,bs->be", states, real) / jnp.maximum(real.sum(1, keepdims=True), 1)

    compiled = partitioner.compile(encode, out_shardings=partitioner.sharding())

    def compute(batch: Mapping[str, jax.Array]) -> jax.Array:
        return compiled(params, batch["texts"])

    features = {"texts": Ragged(rows, 16, PAD, halfway=True)}
    return over_examples(compute, features, partitioner, BATCH, "encoding")
