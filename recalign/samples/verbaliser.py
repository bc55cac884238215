"""Histories and questions as text, within a token budget."""

import string
from collections.abc import Mapping, Sequence

import gin
import numpy as np
import seqio
import tensorflow as tf

from recalign import prompts
from recalign.errors import UserError
from recalign.samples.items import ItemTexts


@gin.configurable
class Verbaliser:
    """Writes one task's samples: a template, a history, the items of a question.

    T5's pieces never cross a space, and every field of a template that holds items stands between
    spaces or before punctuation; so token counts add up, and a history can be cut to its budget
    before it is written.

    Args:
      task: names the task in errors.
      items: the catalogue's texts.
      templates: the paraphrases of the question; the first is used for evaluation.
      vocabulary: counts tokens.
      lengths: `TASK_FEATURE_LENGTHS`, or None where samples may have any length.
      question_tokens: what a question may hold beside its template and its history.
      extra_target_tokens: what a target holds beside one item, EOS included.
      targets: what stands in targets and its tokens without EOS; by default the items.
      paraphrases: only so many templates are used, the first ones; None uses all.

    Raises:
      UserError: if there would be no template, or if the longest question with one item, or the
        longest target, does not fit.
    """

    def __init__(
        self,
        task: str,
        items: ItemTexts,
        templates: Sequence[str],
        vocabulary: seqio.Vocabulary,
        lengths: Mapping[str, int] | None,
        question_tokens: int = 0,
        extra_target_tokens: int = 1,
        targets: tuple[Sequence[str], np.ndarray] | None = None,
        paraphrases: int | None = None,
    ):
        if paraphrases is not None and paraphrases < 1:
            raise UserError(f"Verbaliser.paraphrases is {paraphrases}, but must be at least 1")
        self.templates = tuple(templates)[:paraphrases]
        self.inputs_length = lengths["inputs"] if lengths else None
        self.targets_length = lengths["targets"] if lengths else None
        self._history = tf.constant(items.history)
        self._history_tokens = tf.constant(items.history_tokens)
        self._mention = tf.constant(items.mention)
        self._target = tf.constant(items.target)
        self._target_tokens = tf.constant(items.target_lengths)
        counts = [len(vocabulary.encode(prompts.without_fields(t))) for t in self.templates]
        self._template_tokens = tf.constant(counts)
        question = max(counts) + question_tokens
        self._check_inputs_fit(task, question, int(items.history_tokens.min()))
        texts, tokens = targets or (items.target, items.target_lengths)
        self._check_targets_fit(task, texts, tokens, extra_target_tokens)

    def _check_inputs_fit(self, task: str, question: int, shortest_item: int) -> None:
        needed = question + shortest_item + 1
        if self.inputs_length is not None and needed > self.inputs_length:
            raise UserError(
                f"{task}: its longest question, one item and EOS are {needed} tokens, but "
                f"TASK_FEATURE_LENGTHS['inputs'] = {self.inputs_length}: make it longer"
            )

    def _check_targets_fit(
        self, task: str, texts: Sequence[str], tokens: np.ndarray, extra: int
    ) -> None:
        longest = int(tokens.argmax())
        needed = int(tokens[longest]) + extra
        if self.targets_length is not None and needed > self.targets_length:
            raise UserError(
                f"{task}: the target {texts[longest]!r} needs {needed} tokens, but "
                f"TASK_FEATURE_LENGTHS['targets'] = {self.targets_length}: make it longer, or set "
                "item_texts.target_form to 'id'"
            )

    def paraphrase(self, train: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The index of a template, int32[]: drawn in training, the first in evaluation."""
        drawn = tf.random.stateless_uniform((), seed, 0, len(self.templates), tf.int32)
        return tf.where(train, drawn, 0)

    def newest_that_fit(
        self,
        history: tf.Tensor,
        template: tf.Tensor,
        other_tokens: tf.Tensor | int = 0,
        at_most: int | None = None,
        tokens_beside_each: int = 0,
    ) -> tf.Tensor:
        """The longest suffix of a history that fits beside the question and EOS, int32[h].

        Args:
          history: int32[h'], oldest first.
          template: int32[], the question.
          other_tokens: what the question holds beside its template and the history.
          at_most: a further bound on the tokens of the history.
          tokens_beside_each: what is written beside each item of the history.
        """
        if self.inputs_length is None:
            return history
        budget = self.inputs_length - 1 - self._template_tokens[template] - other_tokens
        budget = budget if at_most is None else tf.minimum(budget, at_most)
        tokens = tf.gather(self._history_tokens, history) + tokens_beside_each
        tokens_from_here = tf.cumsum(tokens, reverse=True)
        return history[tf.reduce_sum(tf.cast(tokens_from_here > budget, tf.int32)) :]

    def history(self, items: tf.Tensor) -> tf.Tensor:
        """Each item as it stands in a history, string[h]."""
        return tf.gather(self._history, items)

    def mention(self, item: tf.Tensor) -> tf.Tensor:
        """An item as it stands in a question."""
        return tf.gather(self._mention, item)

    def mention_tokens(self, item: tf.Tensor) -> tf.Tensor:
        """An upper bound of the tokens of `mention`: those of the item in a history."""
        return tf.gather(self._history_tokens, item)

    def target(self, item: tf.Tensor) -> tf.Tensor:
        """An item as the model must write it."""
        return tf.gather(self._target, item)

    def target_tokens(self, item: tf.Tensor) -> tf.Tensor:
        """The tokens of `target`, without EOS."""
        return tf.gather(self._target_tokens, item)

    def fill(self, template: tf.Tensor, **fields: tf.Tensor) -> tf.Tensor:
        """The template with index `template`, its fields filled in, string[]."""
        branches = [lambda t=t: _format(t, fields) for t in self.templates]
        return tf.switch_case(template, branches)

    def around_history(self, template: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What a template with `{history}` alone says before and after it, two string[]."""
        before, after = zip(*(t.split("{history}") for t in self.templates), strict=True)
        return tf.constant(before)[template], tf.constant(after)[template]


def _format(template: str, fields: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """`str.format` for string tensors."""
    pieces = []
    for text, field, _, _ in string.Formatter().parse(template):
        pieces += [tf.constant(text)] + ([fields[field]] if field else [])
    return tf.strings.join(pieces)
