"""Retrieval: the history as a question, the next item as the answer."""

from collections.abc import Mapping, Sequence

import gin
import seqio
import tensorflow as tf

from recalign import prompts
from recalign.samples.answers import Answers
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
    answer_prefix: int = 0,
) -> tf.data.Dataset:
    """The history as a question, the next item as the answer.

    Args:
      dataset: of `next_item_positions`.
      domain: the prepared domain.
      data_dir: where it lives.
      sequence_length: `TASK_FEATURE_LENGTHS`.
      output_features: of the task.
      templates: the paraphrases of the question.
      max_history: at most so many items of the history are shown.
      answer_prefix: the answer begins with so many of the history's last items, which are given.

    Returns:
      A dataset of `inputs` string[], `targets` and `given` as of `Answers.write`, and for the
      metrics `item` int32[] (the target) and `seen` int32[h] (the whole history).

    Raises:
      UserError: see `Verbaliser` and `Answers`.
    """
    task, items = f"{domain}_retrieval", item_texts(domain, data_dir)
    answers = Answers(task, items, sequence_length, answer_prefix)
    writer = Verbaliser(
        task,
        items,
        templates,
        output_features["inputs"].vocabulary,
        sequence_length,
        extra_target_tokens=len(items.end),
    )

    @seqio.map_over_dataset(num_seeds=1)
    def to_text(example: Example, seed: tf.Tensor) -> Example:
        template = writer.paraphrase(example["train"], seed)
        history = writer.newest_that_fit(example["history"][-max_history:], template)
        text = tf.strings.reduce_join(writer.history(history), separator=" ")
        return {
            "inputs": writer.fill(template, history=text),
            **answers.write(example["history"], example["target"][None]),
            "item": example["target"],
            "seen": example["history"],
        }

    return to_text(dataset)
