"""Answers that are items: the tokens to write, and how many of them are given.

An answer may continue the history: "#213 #289", where #213 was bought last and #289 is to be found.
What it begins with is then given, in training as in evaluation, and no loss is taken of it.

To SeqIO our samples are `inputs` and `targets` like any others: `targets` is the whole answer, and
a converter of SeqIO's own learns all of it. What of it is given stands in the field `given` beside
it. A mixture passes on no such field; there `mark_given` marks these tokens in `targets` itself.
"""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from recalign.errors import UserError, check_positive
from recalign.samples.items import ItemTexts
from recalign.samples.sequences import Example, Lengths

# A length of no feature, which tells a task's last step to mark given tokens.
_MARKED = "given_marked"


class Answers:
    """Writes the answers of one task, token for token what a search of the catalogue writes.

    Args:
      task: names the task in errors.
      items: the catalogue's texts.
      lengths: `TASK_FEATURE_LENGTHS`, or None where samples may have any length.
      answer_prefix: an answer begins with so many of the newest items of the history, or with those
        that leave room for the longest item; 0 for none.
      next_items: an answer has at most so many items to find, or those that fit.

    Raises:
      UserError: a number is out of range; two items may not fit though one is given; or an answer
        may have several items though EOS belongs to the end of each.
    """

    def __init__(
        self,
        task: str,
        items: ItemTexts,
        lengths: Lengths,
        answer_prefix: int = 0,
        next_items: int = 1,
    ):
        if answer_prefix < 0:
            raise UserError(f"{task}: answer_prefix is {answer_prefix}, but must be at least 0")
        check_positive(f"{task}: next_items", next_items)
        if next_items > 1 and len(items.end):
            raise UserError(
                f"{task}: next_items is {next_items}, but where each item ends with EOS, an answer "
                "ends with the first: set item_texts.add_eos to False"
            )
        self._answer_prefix, self._next_items = answer_prefix, next_items
        self._tokens, self._counts = tf.constant(items.target_tokens), items.target_lengths
        self._longest = int(self._counts.max())
        self._end = tf.constant(items.end)
        self._room = lengths["targets"] - len(items.end) if lengths else None
        if lengths and answer_prefix and 2 * self._longest > self._room:
            raise UserError(
                f"{task}: answer_prefix is {answer_prefix}, but TASK_FEATURE_LENGTHS['targets'] = "
                f"{lengths['targets']} has no room for two items of {self._longest} tokens: make "
                "it longer, or answers shorter (item_texts.target_form, max_title_words)"
            )

    def write(self, history: tf.Tensor, following: tf.Tensor) -> Example:
        """The features of an answer.

        Args:
          history: int32[h], oldest first.
          following: int32[f], the item to find, and in training those after it.

        Returns:
          `targets` int32[t], the whole answer, and `given` int32[g], what it begins with.
        """
        begin = history[tf.maximum(tf.size(history) - self._answer_prefix, 0) :]
        following = following[: self._next_items]
        if self._room is not None:
            fits = self._up_to(begin[::-1], self._room - self._longest)
            begin = begin[tf.size(begin) - fits :]
            given_tokens = tf.reduce_sum(tf.gather(self._counts, begin))
            following = following[: self._up_to(following, self._room - given_tokens)]
        given = self._in_a_row(begin)
        targets = tf.concat([given, self._in_a_row(following), self._end], 0)
        return {"targets": targets, "given": given}

    def _up_to(self, items: tf.Tensor, tokens: tf.Tensor | int) -> tf.Tensor:
        """How many of some items, from the first on, have no more than so many tokens, int32[]."""
        counts = tf.cumsum(tf.gather(self._counts, items))
        return tf.reduce_sum(tf.cast(counts <= tokens, tf.int32))

    def _in_a_row(self, items: tf.Tensor) -> tf.Tensor:
        """The tokens of items int32[k], one item after the other, int32[t].

        T5's pieces never cross a space: these are the tokens of the items' texts joined by spaces.
        """
        rows, counts = tf.gather(self._tokens, items), tf.gather(self._counts, items)
        return tf.boolean_mask(rows, tf.sequence_mask(counts, tf.shape(rows)[1]))


def mark_given(lengths: Lengths) -> dict[str, int]:
    """The same lengths, by which a dataset has each given token of `targets` as its negative.

    Only `FeatureConverter` reads that. SeqIO hands the lengths to every task of a mixture, be it
    foreign to this.
    """
    return {**lengths, _MARKED: 1}


def to_tokens(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    sequence_length: Lengths | None,
) -> tf.data.Dataset:
    """Every sample's features as tokens; the last step of every task.

    Strings are encoded, and ended by EOS. What are tokens already is whole. Given tokens are marked
    where `sequence_length` is of `mark_given`.
    """
    marked = _MARKED in (sequence_length or {})

    def encode(feature: seqio.Feature, value: tf.Tensor) -> tf.Tensor:
        if value.dtype != tf.string:
            return value
        vocabulary = feature.vocabulary
        return tf.concat([vocabulary.encode_tf(value), [vocabulary.eos_id]], 0)

    def tokens(sample: Example) -> Example:
        encoded = {name: encode(f, sample[name]) for name, f in output_features.items()}
        return _negate_given(sample | encoded) if marked else sample | encoded

    return dataset.map(tokens, num_parallel_calls=tf.data.AUTOTUNE)


class FeatureConverter(seqio.EncDecFeatureConverter):
    """SeqIO's encoder-decoder features, in which given tokens weigh nothing.

    They are those of the field `given`, which a task has, and those that are marked, as those of a
    mixture must be: see `mark_given`.
    """

    def __call__(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        """See SeqIO; lengths may be of `mark_given`."""
        lengths = {name: task_feature_lengths[name] for name in self.TASK_FEATURES}
        return super().__call__(ds, lengths)

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        if "given" in ds.element_spec:
            ds = ds.map(_negate_given, num_parallel_calls=tf.data.AUTOTUNE)
        return super()._convert_features(ds, task_feature_lengths)

    def _convert_example(self, features: Example) -> Example:
        targets = features["targets"]
        converted = super()._convert_example({**features, "targets": tf.abs(targets)})
        return {**converted, "decoder_loss_weights": tf.cast(targets > 0, tf.int32)}


def _negate_given(sample: Example) -> Example:
    """Given tokens as negative numbers: packing, to which 0 is padding, keeps them apart so."""
    if "given" not in sample:
        return sample
    targets = sample["targets"]
    begins = tf.range(tf.size(targets)) < tf.size(sample["given"])
    return {**sample, "targets": tf.where(begins, -tf.abs(targets), targets)}
