"""SeqIO preprocessors: from a user's events to the samples of each task.

A record of a prepared domain is (user, history, target, candidates, train): in the train split the
events of one user's train prefix, else the events before a held-out one, that one, and the stored
candidate list. All that stands before
`seqio.CacheDatasetPlaceholder` is deterministic; masks, negatives, order and paraphrase come after
it, from SeqIO's seeds, and so are fresh every epoch and the same for the same seed.
"""

from collections.abc import Mapping, Sequence

import gin
import seqio
import tensorflow as tf

from recalign import prompts
from recalign.samples.items import SENTINELS, item_texts
from recalign.samples.verbaliser import Verbaliser

Example = Mapping[str, tf.Tensor]
Lengths = Mapping[str, int] | None

# The last 20 items keep 95 % of Amazon's users whole.
MAX_HISTORY = 20


def next_item_positions(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """One example for every item to predict: each but the first in train, else the held-out one.

    Returns:
      A dataset of `history` int32[h] (the events before the target, oldest first, h >= 1), `target`
      int32[], `touched` int32[t] (every event of the record), `candidates` int32[C] (none in train)
      and `train` bool[].
    """

    def examples(record: Example) -> tf.data.Dataset:
        events = tf.concat([record["history"], [record["target"]]], 0)
        last = tf.size(events, tf.int64) - 1
        first = tf.where(record["train"], tf.constant(1, tf.int64), tf.maximum(last, 1))
        return tf.data.Dataset.range(first, last + 1).map(
            lambda position: {
                "history": events[:position],
                "target": events[position],
                "touched": events,
                "candidates": record["candidates"],
                "train": record["train"],
            }
        )

    # Neighbours come from different users; the order stays a function of the records alone.
    return dataset.interleave(examples, cycle_length=64, block_length=1)


def whole_sequences(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """One example a record: `events` int32[e] with e >= 2, oldest first, and `train` bool[]."""
    sequences = dataset.map(
        lambda record: {
            "events": tf.concat([record["history"], [record["target"]]], 0),
            "train": record["train"],
        },
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return sequences.filter(lambda example: tf.size(example["events"]) > 1)


@gin.configurable
def retrieval(
    dataset: tf.data.Dataset,
    domain: str,
    data_dir: str | None,
    sequence_length: Lengths,
    output_features: Mapping[str, seqio.Feature],
    templates: Sequence[str] = prompts.RETRIEVAL,
    max_history: int = MAX_HISTORY,
) -> tf.data.Dataset:
    """The history as a question, the next item as the answer.

    Returns:
      A dataset of `inputs` and `targets` string[], and for the metrics `item` int32[] (the target)
      and `seen` int32[h] (the whole history).
    """
    writer = Verbaliser(
        f"{domain}_retrieval",
        item_texts(domain, data_dir),
        templates,
        output_features["inputs"].vocabulary,
        sequence_length,
    )

    @seqio.map_over_dataset(num_seeds=1)
    def to_text(example: Example, seed: tf.Tensor) -> Example:
        template = writer.paraphrase(example["train"], seed)
        history = writer.newest_that_fit(example["history"][-max_history:], template)
        text = tf.strings.reduce_join(writer.history(history), separator=" ")
        return {
            "inputs": writer.fill(template, history=text),
            "targets": writer.target(example["target"]),
            "item": example["target"],
            "seen": example["history"],
        }

    return to_text(dataset)


@gin.configurable
def bpr(
    dataset: tf.data.Dataset,
    domain: str,
    data_dir: str | None,
    sequence_length: Lengths,
    output_features: Mapping[str, seqio.Feature],
    templates: Sequence[str] = prompts.BPR,
    max_history: int = MAX_HISTORY,
) -> tf.data.Dataset:
    """The history and two items in random order: the next one, and one not in the record.

    The negative is uniform over the items that the record does not hold, and new every epoch. A
    train record holds train events alone, so no negative depends on a held-out event.
    """
    items = item_texts(domain, data_dir)
    writer = Verbaliser(
        f"{domain}_bpr",
        items,
        templates,
        output_features["inputs"].vocabulary,
        sequence_length,
    )

    @seqio.map_over_dataset(num_seeds=3)
    def to_text(example: Example, seeds: tf.Tensor) -> Example:
        template = writer.paraphrase(example["train"], seeds[0])
        positive = example["target"]
        negative = untouched_item(example["touched"], len(items.target), seeds[1])
        swap = tf.random.stateless_uniform((), seeds[2]) < 0.5
        first, second = tf.where(swap, negative, positive), tf.where(swap, positive, negative)
        mentions = writer.mention_tokens(first) + writer.mention_tokens(second)
        history = writer.newest_that_fit(example["history"][-max_history:], template, mentions)
        return {
            "inputs": writer.fill(
                template,
                history=tf.strings.reduce_join(writer.history(history), separator=" "),
                first=writer.mention(first),
                second=writer.mention(second),
            ),
            "targets": writer.target(positive),
        }

    some_untouched = dataset.filter(
        lambda example: tf.size(tf.unique(example["touched"]).y) < len(items.target)
    )
    return to_text(some_untouched)


def untouched_item(touched: tf.Tensor, num_items: int, seed: tf.Tensor) -> tf.Tensor:
    """An item uniform over those not in `touched`, int32[]; at least one must exist."""
    return untouched_items(touched, num_items, 1, seed)[0]


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


@gin.configurable
def mim(
    dataset: tf.data.Dataset,
    domain: str,
    data_dir: str | None,
    sequence_length: Lengths,
    output_features: Mapping[str, seqio.Feature],
    templates: Sequence[str] = prompts.MIM,
    max_history: int = MAX_HISTORY,
    mask_rate: float = 0.2,
) -> tf.data.Dataset:
    """Masked item modelling: sentinels stand for some items, the answer lists them in order.

    Each item is masked with probability `mask_rate` (S3-Rec's on the Amazon sets), at least one a
    history, and no more than the targets have room for.
    """
    writer = Verbaliser(
        f"{domain}_mim",
        item_texts(domain, data_dir),
        templates,
        output_features["inputs"].vocabulary,
        sequence_length,
        extra_target_tokens=2,
    )
    sentinels = tf.constant([f"<extra_id_{i}>" for i in range(SENTINELS)])

    @seqio.map_over_dataset(num_seeds=3)
    def to_text(example: Example, seeds: tf.Tensor) -> Example:
        template = writer.paraphrase(example["train"], seeds[0])
        events = random_window(example["events"], max_history, seeds[1])
        events = writer.newest_that_fit(events, template)
        tokens = 1 + writer.target_tokens(events)  # each answer follows its sentinel
        masked = random_mask(tokens, writer.targets_length, mask_rate, seeds[2])
        mask_index = tf.cumsum(tf.cast(masked, tf.int32), exclusive=True)
        sentinel = tf.gather(sentinels, mask_index)
        shown = tf.where(masked, sentinel + prompts.ITEM_END, writer.history(events))
        answers = sentinel + " " + writer.target(events)
        return {
            "inputs": writer.fill(template, history=tf.strings.reduce_join(shown, separator=" ")),
            "targets": tf.strings.reduce_join(tf.boolean_mask(answers, masked), separator=" "),
        }

    return to_text(dataset).filter(lambda example: tf.strings.length(example["targets"]) > 0)


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
    """
    vocabulary = output_features["inputs"].vocabulary
    writer = Verbaliser(
        f"{domain}_mlm",
        item_texts(domain, data_dir),
        templates,
        vocabulary,
        sequence_length,
    )
    longest = _longest_corruptible(writer.targets_length, noise_density, mean_span)

    @seqio.map_over_dataset(num_seeds=4)
    def to_tokens(example: Example, seeds: tf.Tensor) -> Example:
        template = writer.paraphrase(example["train"], seeds[0])
        events = random_window(example["events"], max_history, seeds[1])
        events = writer.newest_that_fit(events, template, at_most=longest)
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

    `density` of the tokens are noise, in spans of `mean_span` tokens on average; the sequence
    begins with a span that is kept and ends with one that is not, and the lengths are uniform over
    all that add up.

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
    spans = tf.clip_by_value(_round(tf.cast(noise, tf.float32) / mean_span), 1, kept)
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


def _longest_corruptible(length: int | None, density: float, mean_span: float) -> int | None:
    """The most tokens whose noise, sentinels and EOS fit in `length` target tokens."""
    if length is None:
        return None
    tokens = int(length / density)
    while tokens and (noise := round(tokens * density)) + round(noise / mean_span) + 2 > length:
        tokens -= 1
    return min(tokens, int(SENTINELS * mean_span / density))
