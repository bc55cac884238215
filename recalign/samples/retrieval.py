"""Retrieval: the history as a question, the next item as the answer."""

from collections.abc import Mapping, Sequence

import gin
import seqio
import tensorflow as tf

from recalign import domains, prompts
from recalign.errors import UserError, check_positive
from recalign.samples.answers import Answers
from recalign.samples.items import item_texts
from recalign.samples.neighbours import Neighbours
from recalign.samples.sequences import MAX_HISTORY, Example, Lengths, random_cuts
from recalign.samples.verbaliser import Verbaliser

NEIGHBOURS = 8
"""That a question names, where its template does."""


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
    neighbours: int = NEIGHBOURS,
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
      neighbours: a template with `{neighbours}` names at most so many items, by their ids.

    Returns:
      A dataset of `inputs` string[], `targets` and `given` as of `Answers.write`, and for the
      metrics `item` int32[] (the target) and `seen` int32[h] (the whole history).

    Raises:
      UserError: `cuts_per_sequence` or `neighbours` is below 1, or no template names the latter;
        see `Verbaliser` and `Answers`.
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
    named = None
    if any("{neighbours}" in template for template in templates):
        named = _NamedNeighbours(domain, data_dir, neighbours)
    elif neighbours != NEIGHBOURS:
        raise UserError(
            f"retrieval.neighbours is {neighbours}, but no template names any: {{neighbours}} in "
            "retrieval.templates does"
        )
    writer = Verbaliser(
        task,
        items,
        templates,
        ("history", "neighbours") if named else ("history",),
        output_features["inputs"].vocabulary,
        sequence_length,
        max_history,
        question_tokens=named.most_tokens if named else 0,
        extra_target_tokens=len(items.end),
    )

    @seqio.map_over_dataset(num_seeds=1)
    def to_text(example: Example, seed: tf.Tensor) -> Example:
        template = writer.paraphrase(example["train"], seed)
        fields, tokens = named(example) if named else ({}, 0)
        history = writer.newest_that_fit(example["history"], template, tokens)
        text = tf.strings.reduce_join(writer.history(history), separator=" ")
        following = example["touched"][tf.size(example["history"]) :]
        return {
            "inputs": writer.fill(template, history=text, **fields),
            **answers.write(example["history"], following),
            "item": example["target"],
            "seen": example["history"],
        }

    return to_text(dataset)


class _NamedNeighbours:
    """What `{neighbours}` of a template says: ids, which need no end mark, as candidates."""

    def __init__(self, domain: str, data_dir: str | None, number: int):
        check_positive("retrieval.neighbours", number)
        ids = item_texts(domain, data_dir, target_form="id")
        self.most_tokens = number * int(ids.target_lengths.max())
        self._texts, self._tokens = tf.constant(ids.target), tf.constant(ids.target_lengths)
        self._find = Neighbours(domains.load(domain, data_dir), number)

    def __call__(self, example: Example) -> tuple[Example, tf.Tensor]:
        """The field of a template, and how many tokens it has."""
        found = self._find(example["history"], example["touched"], example["train"])
        text = tf.strings.reduce_join(tf.gather(self._texts, found), separator=" ")
        return {"neighbours": text}, tf.reduce_sum(tf.gather(self._tokens, found))
