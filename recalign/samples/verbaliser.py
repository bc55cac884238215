"""Histories and questions as text, within a token budget."""

import functools
import logging
import re
import string
from collections.abc import Callable, Collection, Mapping, Sequence

import gin
import numpy as np
import seqio
import tensorflow as tf

from recalign import prompts
from recalign.errors import UserError, check_positive, quote
from recalign.samples.items import ItemTexts

log = logging.getLogger(__name__)

# A field of a template for one item, and what follows it without a space.
_MENTION = re.compile(r"\{(?!history\}|candidates\}|neighbours\})\w+\}([^\s{]*)")


@gin.configurable
class Verbaliser:
    """Writes one task's samples: a template, a history, the items of a question.

    T5's pieces never cross a space, and every field of a template that holds items stands between
    spaces or before punctuation; so token counts add up, and a history can be cut to its budget
    before it is written. What gives way is its oldest items; and where the longest question leaves
    less room for an item than it takes, the end of that item's title, in every split alike. So no
    question is cut, and none is asked without the newest item of its history.

    Args:
      task: names the task in messages.
      items: the catalogue's texts.
      templates: the paraphrases of the question; the first is used for evaluation.
      fields: what each of them has, once and in braces.
      vocabulary: counts tokens.
      lengths: `TASK_FEATURE_LENGTHS`, or None where samples may have any length.
      max_history: at most so many items of a history are shown.
      question_tokens: what a question may hold beside its template and items.
      tokens_beside_each: what is written beside each item of a history.
      most_history_tokens: a further bound on the tokens of a history, set by the targets.
      extra_target_tokens: what a target holds beside one item, EOS included.
      targets: what stands in targets and its tokens without EOS; by default the items.
      paraphrases: only so many templates are used, the first ones; None uses all.

    Raises:
      UserError: if there would be no template or no history, if a template has other fields, or if
        the longest question with items that are written as their ids, or the longest target, does
        not fit.
    """

    def __init__(
        self,
        task: str,
        items: ItemTexts,
        templates: Sequence[str],
        fields: Collection[str],
        vocabulary: seqio.Vocabulary,
        lengths: Mapping[str, int] | None,
        max_history: int,
        question_tokens: int = 0,
        tokens_beside_each: int = 0,
        most_history_tokens: int | None = None,
        extra_target_tokens: int = 1,
        targets: tuple[Sequence[str], np.ndarray] | None = None,
        paraphrases: int | None = None,
    ):
        if paraphrases is not None:
            check_positive("Verbaliser.paraphrases", paraphrases)
        check_positive(f"{task.rpartition('_')[2]}.max_history", max_history)
        self.task = task
        _check_templates(task, templates, fields)
        self.templates = tuple(templates)[:paraphrases]
        self.inputs_length = lengths["inputs"] if lengths else None
        self.targets_length = lengths["targets"] if lengths else None
        self._max_history = max_history
        self._most_history_tokens = most_history_tokens
        counts = [len(vocabulary.encode(prompts.without_fields(t))) for t in self.templates]
        self._template_tokens = tf.constant(counts)
        marks = {items.end_mark}.union(*(_MENTION.findall(t) for t in self.templates))
        if lengths:
            question = max(counts) + question_tokens + tokens_beside_each
            items = self._shorten(items, vocabulary, marks, question)
        self._history = tf.constant(items.history)
        self._history_tokens = tf.constant(items.history_tokens)
        self._mention = tf.constant(items.mention)
        self._mention_tokens = tf.constant(items.most_tokens(marks, vocabulary))
        self._target = tf.constant(items.target)
        self._target_tokens = tf.constant(items.target_lengths)
        texts, tokens = targets or (items.target, items.target_lengths)
        self._check_targets_fit(task, texts, tokens, extra_target_tokens)

    def _shorten(
        self,
        items: ItemTexts,
        vocabulary: seqio.Vocabulary,
        marks: Collection[str],
        question: int,
    ) -> ItemTexts:
        """The catalogue with titles so short that all items of the longest question fit.

        Those are the newest of the history and those that it names.
        """
        number = 1 + max(len(_MENTION.findall(template)) for template in self.templates)
        room = (self.inputs_length - 1 - question) // number
        if self._most_history_tokens is not None:
            room = min(room, self._most_history_tokens)
        fitting = items.shorten(room, marks, vocabulary)
        longest = int(fitting.most_tokens(marks, vocabulary).max())
        needed = question + number * longest + 1
        if needed > self.inputs_length:
            raise UserError(
                f"{self.task}: its longest question, {number} item{'s' * (number > 1)} and EOS are "
                f"{needed} tokens, but TASK_FEATURE_LENGTHS['inputs'] = {self.inputs_length}: make "
                "it longer"
            )
        if longest > room:
            raise UserError(
                f"{self.task}: TASK_FEATURE_LENGTHS['targets'] = {self.targets_length} is enough "
                f"for histories of {room} tokens, and an item takes {longest}: make it longer"
            )
        _tell_shortened(
            self.task, int((fitting.titles != items.titles).sum()), len(items.ids), room
        )
        return fitting

    def _check_targets_fit(
        self, task: str, texts: Sequence[str], tokens: np.ndarray, extra: int
    ) -> None:
        longest = int(tokens.argmax())
        needed = int(tokens[longest]) + extra
        if self.targets_length is not None and needed > self.targets_length:
            raise UserError(
                f"{task}: the target {texts[longest]!r} needs {needed} tokens, but "
                f"TASK_FEATURE_LENGTHS['targets'] = {self.targets_length}: make it longer, or "
                "answers shorter (item_texts.target_form='id', item_texts.max_title_words)"
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
        tokens: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """The longest suffix of a history that fits beside the question and EOS, int32[h].

        Args:
          history: int32[h'], oldest first.
          template: int32[], the question.
          other_tokens: what the question holds beside its template and the history.
          tokens: what each of some items takes; by default `history_tokens`.
        """
        history = history[-self._max_history :]
        if self.inputs_length is None:
            return history
        budget = self.inputs_length - 1 - self._template_tokens[template] - other_tokens
        if self._most_history_tokens is not None:
            budget = tf.minimum(budget, self._most_history_tokens)
        tokens_from_here = tf.cumsum((tokens or self.history_tokens)(history), reverse=True)
        return history[tf.reduce_sum(tf.cast(tokens_from_here > budget, tf.int32)) :]

    def history_tokens(self, items: tf.Tensor) -> tf.Tensor:
        """The tokens of each item of `history`, int32[h]."""
        return tf.gather(self._history_tokens, items)

    def history(self, items: tf.Tensor) -> tf.Tensor:
        """Each item as it stands in a history, string[h]."""
        return tf.gather(self._history, items)

    def mention(self, item: tf.Tensor) -> tf.Tensor:
        """An item as it stands in a question."""
        return tf.gather(self._mention, item)

    def mention_tokens(self, item: tf.Tensor) -> tf.Tensor:
        """An upper bound of the tokens of `mention`, whatever of a template follows it."""
        return tf.gather(self._mention_tokens, item)

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


def _check_templates(task: str, templates: Sequence[str], fields: Collection[str]) -> None:
    """Raises a UserError unless there are templates, and each has every field once, set apart."""
    kind = task.rpartition("_")[2]
    if not templates:
        raise UserError(f"{kind}.templates is empty, but a question needs words")
    for template in templates:
        try:
            parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
        except ValueError:  # a brace alone
            parts = []
        plain = not any(form or conversion for _, _, form, conversion in parts)
        if not plain or sorted(field for _, field, *_ in parts) != sorted(fields):
            wanted = " and ".join(f"{{{field}}}" for field in fields)
            raise UserError(
                f"{kind}.templates holds {quote(template)}, but each must have {wanted} once, and "
                "no other braces"
            )
        if joined := re.search(rf"\S\{{({'|'.join(fields)})\}}", template):
            raise UserError(
                f"{kind}.templates holds {quote(template)}, but {{{joined[1]}}} must come first or "
                "after a space: pieces of ids begin with one"
            )


@functools.cache
def _tell_shortened(task: str, number: int, of: int, room: int) -> None:
    """Once a process, however many datasets are made of a task."""
    if number:
        log.warning(
            "%s: the titles of %d of %d items are shortened to the %d tokens that an item has room "
            "for in TASK_FEATURE_LENGTHS",
            task,
            number,
            of,
            room,
        )


def _format(template: str, fields: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """`str.format` for string tensors."""
    pieces = []
    for text, field, _, _ in string.Formatter().parse(template):
        pieces += [tf.constant(text)] + ([fields[field]] if field else [])
    return tf.strings.join(pieces)
