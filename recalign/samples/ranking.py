"""Ranking samples: a history and candidates, of which one was bought."""

from collections.abc import Mapping, Sequence

import gin
import numpy as np
import seqio
import tensorflow as tf

from recalign import domains, prompts
from recalign.samples.answers import Answers
from recalign.samples.draws import untouched_items
from recalign.samples.items import check_form, item_texts
from recalign.samples.sequences import MAX_HISTORY, Example, Lengths
from recalign.samples.verbaliser import Verbaliser


@gin.configurable
def ranking(
    dataset: tf.data.Dataset,
    domain: str,
    data_dir: str | None,
    sequence_length: Lengths,
    output_features: Mapping[str, seqio.Feature],
    templates: Sequence[str] = prompts.RANKING,
    max_history: int = MAX_HISTORY,
    candidate_form: str = "id",
    answer_prefix: int = 0,
) -> tf.data.Dataset:
    """The history and a candidate list as a question, the one bought as the answer.

    Validation and test show the stored list. In train, as many negatives as there are drawn anew
    every epoch, uniform over the items that the train record does not hold, all in random order.
    The list is always whole; it is the history that gives way.

    Args:
      dataset: of `next_item_positions`.
      domain: the prepared domain.
      data_dir: where it lives.
      sequence_length: `TASK_FEATURE_LENGTHS`.
      output_features: of the task.
      templates: the paraphrases of the question.
      max_history: at most so many items of the history are shown.
      candidate_form: how a candidate is written, one of `prompts.ITEM_FORMS`. A hundred ids take a
        hundred to five hundred tokens, a hundred titles two thousand.
      answer_prefix: as of `retrieval`.

    Returns:
      A dataset of `inputs` string[], `targets` and `given` as of `Answers.write`, and for the
      metrics `item` int32[] (the target), `candidates` int32[C] and `seen` int32[h] (the whole
      history).

    Raises:
      UserError: the longest candidate list does not fit.
    """
    texts, tokens = _candidate_texts(domain, data_dir, candidate_form)
    size = domains.statistics_of(domain, data_dir)["candidates"]["test"]["candidates"]
    task, items = f"{domain}_ranking", item_texts(domain, data_dir)
    answers = Answers(task, items, sequence_length, answer_prefix)
    writer = Verbaliser(
        task,
        items,
        templates,
        ("history", "candidates"),
        output_features["inputs"].vocabulary,
        sequence_length,
        max_history,
        question_tokens=int(np.sort(tokens)[-size:].sum()),
        extra_target_tokens=len(items.end),
    )
    texts, tokens = tf.constant(texts), tf.constant(tokens)

    @seqio.map_over_dataset(num_seeds=3)
    def to_text(example: Example, seeds: tf.Tensor) -> Example:
        def draw() -> tf.Tensor:
            negatives = untouched_items(example["touched"], len(texts), size - 1, seeds[1])
            listed = tf.concat([[example["target"]], negatives], 0)
            order = tf.argsort(tf.random.stateless_uniform(tf.shape(listed), seeds[2]))
            return tf.gather(listed, order)

        candidates = tf.cond(example["train"], draw, lambda: example["candidates"])
        template = writer.paraphrase(example["train"], seeds[0])
        listed = tf.reduce_sum(tf.gather(tokens, candidates))
        history = writer.newest_that_fit(example["history"], template, listed)
        return {
            "inputs": writer.fill(
                template,
                history=tf.strings.reduce_join(writer.history(history), separator=" "),
                candidates=tf.strings.reduce_join(tf.gather(texts, candidates), separator=" "),
            ),
            **answers.write(example["history"], example["target"][None]),
            "item": example["target"],
            "candidates": candidates,
            "seen": example["history"],
        }

    return to_text(dataset)


def _candidate_texts(domain: str, data_dir: str | None, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Every item as it stands in a list, str[n], and how many tokens that is, int32[n]."""
    check_form("ranking.candidate_form", form)
    if form == "id":  # an id needs no end mark: the next one begins with "#"
        texts = item_texts(domain, data_dir, target_form="id")
        return texts.target, texts.target_lengths
    texts = item_texts(domain, data_dir, history_form=form)
    return texts.history, texts.history_tokens
