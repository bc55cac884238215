"""Retrieval: the history as a question, the next item as the answer."""

from collections.abc import Mapping, Sequence

import gin
import seqio
import tensorflow as tf

from recalign import prompts
from recalign.samples.items import item_texts
from recalign.samples.sequences import MAX_HISTORY, Example, Lengths
from recalign.samples.verbaliser import Verbaliser


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
        max_history,
    )

    @seqio.map_over_dataset(num_seeds=1)
    def to_text(example: Example, seed: tf.Tensor) -> Example:
        template = writer.paraphrase(example["train"], seed)
        history = writer.newest_that_fit(example["history"], template)
        text = tf.strings.reduce_join(writer.history(history), separator=" ")
        return {
            "inputs": writer.fill(template, history=text),
            "targets": writer.target(example["target"]),
            "item": example["target"],
            "seen": example["history"],
        }

    return to_text(dataset)
