"""From a record of a prepared domain to what each task predicts; what all tasks of samples share.

A record of a prepared domain is (user, history, target, candidates, train): in the train split the
events of one user's train prefix, else the events before a held-out one, that one, and the stored
candidate list. All that stands before
`seqio.CacheDatasetPlaceholder` is deterministic; masks, negatives, order and paraphrase come after
it, from SeqIO's seeds, and so are fresh every epoch and the same for the same seed.
"""

from collections.abc import Mapping

import seqio
import tensorflow as tf

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


def random_cuts(dataset: tf.data.Dataset, number: int) -> tf.data.Dataset:
    """Each train sequence `number` times, cut at a random place every time.

    Returns:
      The same, with a train sequence's first position alone, so many times, moved to a place that
      is uniform over its positions. Held-out items stay as they are.
    """

    @seqio.map_over_dataset(num_seeds=1)
    def move(example: Example, seed: tf.Tensor) -> Example:
        events, place = example["touched"], tf.size(example["history"])
        drawn = tf.random.stateless_uniform((), seed, 1, tf.size(events), tf.int32)
        place = tf.where(example["train"], drawn, place)
        return {**example, "history": events[:place], "target": events[place]}

    def several(example: Example) -> tf.data.Dataset:
        count = tf.where(example["train"], tf.constant(number, tf.int64), 1)
        return tf.data.Dataset.from_tensors(example).repeat(count)

    first = dataset.filter(lambda e: ~e["train"] | (tf.size(e["history"]) == 1))
    return move(first.flat_map(several))


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
