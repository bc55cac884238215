"""A gate by which the decoder favours, or avoids, what it has read or written already.

The tokens of the question and of the answer so far get a logit more, or less, than the others: one
number for all of them, which the decoder's state decides. So a network can say "never the same item
twice" or "one of these candidates" in one parameter, where it would else have to learn it item by
item. It is RepeatNet's choice between repeating and exploring (Ren et al., AAAI 2019,
arXiv:1812.02646), added to the logits. T5 has none: `T5Config.copy_gate` adds it.

Where a question names what should be favoured beside what should not, `T5Config.copy_weights` gives
each token of it a number of its own too, which the encoder's state there decides, as a pointer
network would (Vinyals et al., NeurIPS 2015, arXiv:1506.03134).

Shapes are those of `transformer`.
"""

import jax.numpy as jnp

from recalign.engine.network.layers import Array


def see_before(
    question: Array,
    answer: Array,
    question_segments: Array | None = None,
    answer_segments: Array | None = None,
) -> Array:
    """What each position of an answer has before it, and its own input, int[B,L,S+L]; 0 is nothing.

    Args:
        question: int[B,S], 0 padded.
        answer: int[B,L], the decoder's inputs.
        question_segments: int[B,S], for packed examples.
        answer_segments: int[B,L], for packed examples.
    """
    steps = jnp.arange(answer.shape[1])
    earlier = steps[:, None] >= steps
    within = jnp.ones((1, 1, 1), bool)
    if answer_segments is not None:
        earlier = earlier & (answer_segments[:, :, None] == answer_segments[:, None])
        within = answer_segments[:, :, None] == question_segments[:, None]
    seen = jnp.where(within, question[:, None], 0), jnp.where(earlier, answer[:, None], 0)
    shape = (*answer.shape, question.shape[1])
    return jnp.concatenate([jnp.broadcast_to(seen[0], shape), seen[1]], axis=-1)


def find_present(tokens: Array, vocab_size: int) -> Array:
    """Which tokens of the vocabulary are among int[...,N], bool[...,V]; padding never is."""
    rows = tokens.reshape(-1, tokens.shape[-1]).astype(jnp.int32)
    present = jnp.zeros((rows.shape[0], vocab_size), bool)
    present = present.at[jnp.arange(rows.shape[0])[:, None], rows].set(True)
    return present.at[:, 0].set(False).reshape(*tokens.shape[:-1], vocab_size)


def add_up(weights: Array, tokens: Array, vocab_size: int) -> Array:
    """The sum of the weights of each token of the vocabulary, float32[...,V]; padding has none.

    Args:
        weights: float[...,N].
        tokens: int[...,N], whose weights they are.
        vocab_size: V.
    """
    rows = tokens.reshape(-1, tokens.shape[-1]).astype(jnp.int32)
    sums = jnp.zeros((rows.shape[0], vocab_size), jnp.float32)
    sums = sums.at[jnp.arange(rows.shape[0])[:, None], rows].add(weights.reshape(rows.shape))
    return sums.at[:, 0].set(0.0).reshape(*tokens.shape[:-1], vocab_size)
