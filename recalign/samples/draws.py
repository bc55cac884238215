"""What is drawn for a sample: negatives, windows and masks."""

import tensorflow as tf

from recalign.samples.items import SENTINELS


def untouched_items(touched: tf.Tensor, num_items: int, count: int, seed: tf.Tensor) -> tf.Tensor:
    """`count` distinct items, uniform over the sets of those not in `touched`, int32[count].

    Where there are not as many, all of them. They stand in random order.
    """
    touched = tf.sort(tf.unique(touched).y)
    untouched = num_items - tf.size(touched)

    def first_of_all() -> tf.Tensor:
        return tf.argsort(tf.random.stateless_uniform([untouched], seed))

    def first_distinct_draws() -> tf.Tensor:
        # Of 2k + 8 draws from more than 8k items, fewer than k distinct are as good as impossible.
        draws = tf.random.stateless_uniform([2 * count + 8], seed, 0, untouched, tf.int32)
        return tf.unique(draws).y

    ranks = tf.cond(untouched > 8 * count, first_distinct_draws, first_of_all)[:count]
    # The r-th untouched item is r plus the number of touched items up to it.
    before = touched - tf.range(tf.size(touched))
    return ranks + tf.searchsorted(before, ranks, side="right")


def random_window(events: tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """At most `size` consecutive events, every window equally likely."""
    starts = tf.maximum(tf.size(events) - size, 0) + 1
    start = tf.random.stateless_uniform((), seed, 0, starts, tf.int32)
    return events[start : start + size]


def random_mask(tokens: tf.Tensor, length: int | None, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Which items to mask, bool[h]: each with probability `rate`, and at least one.

    Args:
      tokens: int32[h], the target tokens that masking an item costs.
      length: the target tokens there are, EOS included, or None for no bound; where not all masked
        items fit, the oldest are kept.
      rate: the probability.
      seed: int32[2].
    """
    draws = tf.random.stateless_uniform(tf.shape(tokens), seed)
    # With the lowest draw masked always, "at least one" needs no second random number.
    masked = (draws < rate) | (draws <= tf.reduce_min(draws))
    masked &= tf.cumsum(tf.cast(masked, tf.int32)) <= SENTINELS
    if length is not None:
        masked &= tf.cumsum(tf.where(masked, tokens, 0)) < length
    return masked
