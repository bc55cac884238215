"""Masked item modelling: the items of a history that sentinels hide."""

from collections.abc import Mapping, Sequence

import gin
import seqio
import tensorflow as tf

from recalign import prompts
from recalign.errors import UserError
from recalign.samples.draws import random_mask, random_window
from recalign.samples.items import SENTINELS, item_texts
from recalign.samples.sequences import MAX_HISTORY, Example, Lengths
from recalign.samples.verbaliser import Verbaliser


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

    Raises:
      UserError: `mask_rate` is no probability.
    """
    if not 0 <= mask_rate <= 1:
        raise UserError(f"mim.mask_rate is {mask_rate}, but must be between 0 and 1")
    vocabulary = output_features["inputs"].vocabulary
    items = item_texts(domain, data_dir)
    writer = Verbaliser(
        f"{domain}_mim",
        items,
        templates,
        ("history",),
        vocabulary,
        sequence_length,
        max_history,
        extra_target_tokens=2,
    )
    sentinels = tf.constant([f"<extra_id_{i}>" for i in range(SENTINELS)])
    hidden_tokens = len(vocabulary.encode("<extra_id_0>" + items.end_mark))

    @seqio.map_over_dataset(num_seeds=3)
    def to_text(example: Example, seeds: tf.Tensor) -> Example:
        template = writer.paraphrase(example["train"], seeds[0])
        events = random_window(example["events"], max_history, seeds[1])
        events = writer.newest_that_fit(
            events,
            template,
            # A very short item takes less than the sentinel that may stand for it.
            tokens=lambda shown: tf.maximum(writer.history_tokens(shown), hidden_tokens),
        )
        tokens = 1 + writer.target_tokens(events)  # each answer follows its sentinel
        masked = random_mask(tokens, writer.targets_length, mask_rate, seeds[2])
        mask_index = tf.cumsum(tf.cast(masked, tf.int32), exclusive=True)
        # After the last of them no item is masked, nor one written.
        sentinel = tf.gather(sentinels, tf.minimum(mask_index, SENTINELS - 1))
        shown = tf.where(masked, sentinel + items.end_mark, writer.history(events))
        answers = sentinel + " " + writer.target(events)
        return {
            "inputs": writer.fill(template, history=tf.strings.reduce_join(shown, separator=" ")),
            "targets": tf.strings.reduce_join(tf.boolean_mask(answers, masked), separator=" "),
        }

    return to_text(dataset).filter(lambda example: tf.strings.length(example["targets"]) > 0)
