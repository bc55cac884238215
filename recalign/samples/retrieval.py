"""Retrieval: the history as a question, the next item as the answer."""

from collections.abc import Mapping, Sequence

import gin
import seqio
import tensorflow as tf

from recalign import prompts
from recalign.errors import UserError
from recalign.samples.answers import Answers
from recalign.samples.items import item_texts
from recalign.samples.sequences import MAX_HISTORY, Example, Lengths, random_cuts
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
    next_items: int = 1,
    cuts_per_sequence: int | None = None,
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
      next_items: in training, an answer goes on with up to so many items in all that came next, as
        many as fit. Evaluation asks for the first alone.
      cuts_per_sequence: an epoch of training has each sequence so many times, cut into history and
        answer at random places; None has every place once.

    Returns:
      A dataset of `inputs` string[], `targets` and `given` as of `Answers.write`, and for the
      metrics `item` int32[] (the target) and `seen` int32[h] (the whole history).

    Raises:
      UserError: `cuts_per_sequence` is below 1; see `Verbaliser` and `Answers`.
    """
    if cuts_per_sequence is not None:
        if cuts_per_sequence < 1:
            raise UserError(
                f"retrieval.cuts_per_sequence is {cuts_per_sequence}, but must be at least 1, or "
                "None for every place of a sequence"
            )
        dataset = random_cuts(dataset, cuts_per_sequence)
    task, items = f"{domain}_retrieval", item_texts(domain, data_dir)
    answers = Answers(task, items, sequence_length, answer_prefix, next_items)
    writer = Verbaliser(
        task,
        items,
        templates,
        ("history",),
        output_features["inputs"].vocabulary,
        sequence_length,
        max_history,
        extra_target_tokens=len(items.end),
    )

    @seqio.map_over_dataset(num_seeds=1)
    def to_text(example: Example, seed: tf.Tensor) -> Example:
        template = writer.paraphrase(example["train"], seed)
        history = writer.newest_that_fit(example["history"], template)
        text = tf.strings.reduce_join(writer.history(history), separator=" ")
        following = example["touched"][tf.size(example["history"]) :]
        return {
            "inputs": writer.fill(template, history=text),
            **answers.write(example["history"], following),
            "item": example["target"],
            "seen": example["history"],
        }

    return to_text(dataset)
