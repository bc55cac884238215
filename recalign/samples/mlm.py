"""Masked language modelling: span corruption of the verbalised history."""

from collections.abc import Mapping, Sequence

import gin
import seqio
import tensorflow as tf

from recalign import prompts
from recalign.errors import UserError, check_positive
from recalign.samples.draws import random_window
from recalign.samples.items import SENTINELS, item_texts
from recalign.samples.sequences import MAX_HISTORY, Example, Lengths
from recalign.samples.verbaliser import Verbaliser


@gin.configurable
def mlm(
    dataset: tf.data.Dataset,
    domain: str,
    data_dir: str | None,
    sequence_length: Lengths,
    output_features: Mapping[str, seqio.Feature],
    templates: Sequence[str] = prompts.MLM,
    max_history: int = MAX_HISTORY,
    noise_density: float = 0.15,
    mean_span: float = 3.0,
) -> tf.data.Dataset:
    """Masked language modelling: T5's span corruption of the verbalised history, ids and titles.

    Returns:
      A dataset of `inputs` and `targets` int32[], without EOS. The question is never corrupted.

    Raises:
      UserError: an option is out of range.
    """
    if not 0 < noise_density < 1:
        raise UserError(f"mlm.noise_density is {noise_density}, but must be between 0 and 1")
    check_positive("mlm.mean_span", mean_span)
    vocabulary = output_features["inputs"].vocabulary
    writer = Verbaliser(
        f"{domain}_mlm",
        item_texts(domain, data_dir),
        templates,
        ("history",),
        vocabulary,
        sequence_length,
        max_history,
        most_history_tokens=sequence_length
        and _longest_corruptible(sequence_length["targets"], noise_density, mean_span),
    )

    @seqio.map_over_dataset(num_seeds=4)
    def to_tokens(example: Example, seeds: tf.Tensor) -> Example:
        template = writer.paraphrase(example["train"], seeds[0])
        events = random_window(example["events"], max_history, seeds[1])
        events = writer.newest_that_fit(events, template)
        text = tf.strings.reduce_join(writer.history(events), separator=" ")
        inputs, targets = span_corruption(
            vocabulary.encode_tf(text), vocabulary.vocab_size, noise_density, mean_span, seeds[2:]
        )
        before, after = map(vocabulary.encode_tf, writer.around_history(template))
        return {"inputs": tf.concat([before, inputs, after], 0), "targets": targets}

    return to_tokens(dataset).filter(lambda example: tf.size(example["targets"]) > 0)


def span_corruption(
    tokens: tf.Tensor,
    vocab_size: int,
    density: float,
    mean_span: float,
    seeds: Sequence[tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """T5's span corruption (Raffel et al. 2020, section 3.1.4) of one sequence.

    `density` of the tokens are noise, in spans of `mean_span` tokens on average, or in longer ones
    where there would be more spans than sentinels; the sequence begins with a span that is kept and
    ends with one that is not, and the lengths are uniform over all that add up.

    Args:
      tokens: int32[n].
      vocab_size: sentinel i is token `vocab_size - 1 - i`.
      density: the share of noise.
      mean_span: the mean length of a noise span.
      seeds: two pairs of integers, for what is kept and for what is noise.

    Returns:
      The tokens with every noise span replaced by a sentinel, and the noise spans, each after its
      sentinel; both int32. Of fewer than two tokens, the tokens and nothing.
    """
    n = tf.size(tokens)
    noise = tf.clip_by_value(_round(tf.cast(n, tf.float32) * density), 1, tf.maximum(n - 1, 1))
    kept = tf.maximum(n - noise, 1)
    most = tf.minimum(kept, SENTINELS)
    spans = tf.clip_by_value(_round(tf.cast(noise, tf.float32) / mean_span), 1, most)
    lengths_kept = _random_composition(kept, spans, seeds[0])
    lengths_noise = _random_composition(noise, spans, seeds[1])
    lengths = tf.stack([lengths_kept, lengths_noise], axis=1)
    is_noise = tf.repeat(tf.tile([False, True], [spans]), tf.reshape(lengths, [-1]))[:n]
    is_noise &= n > 1
    corrupted = _spans_to_sentinels(tokens, is_noise, vocab_size)
    answer = _spans_to_sentinels(tokens, ~is_noise, vocab_size)
    return corrupted, tf.cond(n > 1, lambda: answer, lambda: answer[:0])


def _round(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(x), tf.int32)


def _random_composition(total: tf.Tensor, parts: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """`parts` positive integers that add up to `total`, uniform over all such, int32[parts]."""
    order = tf.argsort(tf.random.stateless_uniform([total - 1], seed))
    cuts = tf.concat([[0], tf.sort(order[: parts - 1]) + 1, [total]], 0)
    return cuts[1:] - cuts[:-1]


def _spans_to_sentinels(tokens: tf.Tensor, replaced: tf.Tensor, vocab_size: int) -> tf.Tensor:
    """Replaces each run of `replaced` tokens by one sentinel, counted from the left."""
    begins = replaced & ~tf.concat([[False], replaced[:-1]], 0)
    sentinels = vocab_size - tf.cumsum(tf.cast(begins, tf.int32))
    return tf.boolean_mask(tf.where(begins, sentinels, tokens), begins | ~replaced)


def _longest_corruptible(length: int, density: float, mean_span: float) -> int:
    """The most tokens whose noise, sentinels and EOS fit in `length` target tokens."""

    def count_needed(tokens: int) -> int:
        noise = round(tokens * density)
        # A span and its sentinel at least; else one to spare, since TensorFlow rounds in float32.
        return max(1 + 1 + 1, noise + round(noise / mean_span) + 2)

    tokens = int(length / density)
    while tokens and count_needed(tokens) > length:
        tokens -= 1
    return min(tokens, int(SENTINELS * mean_span / density))
