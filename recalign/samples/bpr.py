"""Bayesian personalised ranking as a question: which of two items comes next?"""

from collections.abc import Mapping, Sequence

import gin
import seqio
import tensorflow as tf

from recalign import prompts
from recalign.samples.answers import Answers
from recalign.samples.draws import untouched_items
from recalign.samples.items import item_texts
from recalign.samples.sequences import MAX_HISTORY, Example, Lengths
from recalign.samples.verbaliser import Verbaliser


@gin.configurable
def bpr(
    dataset: tf.data.Dataset,
    domain: str,
    data_dir: str | None,
    sequence_length: Lengths,
    output_features: Mapping[str, seqio.Feature],
    templates: Sequence[str] = prompts.BPR,
    max_history: int = MAX_HISTORY,
    answer_prefix: int = 0,
) -> tf.data.Dataset:
    """The history and two items in random order: the next one, and one not in the record.

    The negative is uniform over the items that the record does not hold, and new every epoch. A
    train record holds train events alone, so no negative depends on a held-out event.
    `answer_prefix` is that of `retrieval`.
    """
    task, items = f"{domain}_bpr", item_texts(domain, data_dir)
    answers = Answers(task, items, sequence_length, answer_prefix)
    writer = Verbaliser(
        task,
        items,
        templates,
        ("history", "first", "second"),
        output_features["inputs"].vocabulary,
        sequence_length,
        max_history,
        extra_target_tokens=len(items.end),
    )

    @seqio.map_over_dataset(num_seeds=3)
    def to_text(example: Example, seeds: tf.Tensor) -> Example:
        template = writer.paraphrase(example["train"], seeds[0])
        positive = example["target"]
        negative = untouched_items(example["touched"], len(items.target), 1, seeds[1])[0]
        swap = tf.random.stateless_uniform((), seeds[2]) < 0.5
        first, second = tf.where(swap, negative, positive), tf.where(swap, positive, negative)
        mentions = writer.mention_tokens(first) + writer.mention_tokens(second)
        history = writer.newest_that_fit(example["history"], template, mentions)
        return {
            "inputs": writer.fill(
                template,
                history=tf.strings.reduce_join(writer.history(history), separator=" "),
                first=writer.mention(first),
                second=writer.mention(second),
            ),
            **answers.write(example["history"], positive[None]),
        }

    some_untouched = dataset.filter(
        lambda example: tf.size(tf.unique(example["touched"]).y) < len(items.target)
    )
    return to_text(some_untouched)
