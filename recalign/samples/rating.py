"""Rating samples: what a user has rated, and an item to rate.

A record of the rating build is (user, items, ratings, target_items, target_ratings, train): the
training ratings of one user, oldest first, and those to be predicted, in train the same ones.
"""

from collections.abc import Mapping, Sequence

import gin
import numpy as np
import seqio
import tensorflow as tf

from recalign import domains, prompts
from recalign.samples.items import item_texts
from recalign.samples.sequences import MAX_HISTORY, Example, Lengths
from recalign.samples.verbaliser import Verbaliser


def ratings_to_predict(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """One example for every rating to predict.

    Returns:
      A dataset of `user` int32[], `history` int32[h] and `history_ratings` float32[h] (the user's
      training ratings of other items, oldest first), `item` int32[], `rating` float32[] and `train`
      bool[].
    """

    def examples(record: Example) -> tf.data.Dataset:
        asked = tf.data.Dataset.from_tensor_slices(
            (record["target_items"], record["target_ratings"])
        )

        def example(item: tf.Tensor, rating: tf.Tensor) -> Example:
            others = record["items"] != item
            return {
                "user": record["user"],
                "history": tf.boolean_mask(record["items"], others),
                "history_ratings": tf.boolean_mask(record["ratings"], others),
                "item": item,
                "rating": rating,
                "train": record["train"],
            }

        return asked.map(example)

    return dataset.interleave(examples, cycle_length=64, block_length=1)


@gin.configurable
def rating(
    dataset: tf.data.Dataset,
    domain: str,
    data_dir: str | None,
    sequence_length: Lengths,
    output_features: Mapping[str, seqio.Feature],
    templates: Sequence[str] = prompts.RATING,
    max_history: int = MAX_HISTORY,
) -> tf.data.Dataset:
    """Rated items and one to rate as a question, its stars as the answer.

    Returns:
      A dataset of `inputs` and `targets` string[], and for the metrics `user` and `item` int32[]
      and `rating` float32[].
    """
    vocabulary = output_features["inputs"].vocabulary
    stars = [*values_of_stars(domain, data_dir)]
    tokens = np.array([len(vocabulary.encode(text)) for text in stars])
    beside = max(len(vocabulary.encode(prompts.RATED + s + prompts.ITEM_END)) for s in stars)
    writer = Verbaliser(
        f"{domain}_rating",
        item_texts(domain, data_dir),
        templates,
        ("history", "item"),
        vocabulary,
        sequence_length,
        max_history,
        tokens_beside_each=beside,
        targets=(stars, tokens),
    )

    @seqio.map_over_dataset(num_seeds=1)
    def to_text(example: Example, seed: tf.Tensor) -> Example:
        template = writer.paraphrase(example["train"], seed)
        history = writer.newest_that_fit(
            example["history"],
            template,
            writer.mention_tokens(example["item"]),
            tokens=lambda rated: writer.mention_tokens(rated) + beside,
        )
        shown = example["history_ratings"][tf.size(example["history"]) - tf.size(history) :]
        rated = writer.mention(history) + prompts.RATED + _stars(shown) + prompts.ITEM_END
        return {
            "inputs": writer.fill(
                template,
                history=tf.strings.reduce_join(rated, separator=" "),
                item=writer.mention(example["item"]),
            ),
            "targets": _stars(example["rating"]),
            "user": example["user"],
            "item": example["item"],
            "rating": example["rating"],
        }

    return to_text(dataset)


def values_of_stars(domain: str, data_dir: str | None) -> dict[str, float]:
    """Every rating there is in train as it is written, ascending, and the number that this is."""
    values = domains.statistics_of(domain, data_dir)["ratings"]["values"]
    # Ratings that differ by less than is written are the same answer; and what an answer says is
    # not quite what 32 bits hold of 0.2, which would leave the lowest one off the scale.
    return {text: float(text) for text in star_texts(values)}


def tokens_of_stars(
    domain: str, data_dir: str | None, vocabulary: seqio.Vocabulary
) -> list[np.ndarray]:
    """How the model must write each of `values_of_stars`: int32[tokens], EOS included."""
    texts = values_of_stars(domain, data_dir)
    return [np.array([*vocabulary.encode(text), vocabulary.eos_id], np.int32) for text in texts]


def star_texts(values: Sequence[float]) -> list[str]:
    """Ratings as they are written: "4", "4.5"; with six digits at most."""
    return [f"{value:g}" for value in values]


def _stars(ratings: tf.Tensor) -> tf.Tensor:
    """`star_texts` of a tensor float32[…]."""
    return tf.strings.as_string(ratings, shortest=True)
