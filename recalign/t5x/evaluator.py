"""The answers between which an example asks, told to the model that an evaluator judges.

A ranking example has its candidates, and a rating example every rating that there is in train. The
metrics of both need the probability of each of these answers, of which SeqIO's features tell a
model nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

import seqio
import tensorflow as tf

from recalign.engine.search.trie import as_matrix
from recalign.samples.items import item_texts
from recalign.samples.rating import tokens_of_stars
from recalign.samples.registry import domain_of

CHOICES = "choices"


class Evaluator(seqio.Evaluator):
    """SeqIO's evaluator; the model gets the answers too, as the feature `choices`.

    That is int32[C, L], each answer with its EOS and padding, in batches of ranking and of rating
    tasks and in no others. A `score_fn` then gives C scores an example, a `predict_fn` one free
    answer.
    """

    def __init__(self, mixture_or_task_name: str, *args: Any, **options: Any):
        super().__init__(mixture_or_task_name, *args, **options)
        for task in self.eval_tasks:
            examples = self.cached_task_datasets[task.name]
            if (choices := _choices(task, examples)) is not None:
                given = tf.data.Dataset.zip(self.cached_model_datasets[task.name], examples)
                self.cached_model_datasets[task.name] = given.map(_add(choices))


def _add(choices: Callable[[Mapping], tf.Tensor]) -> Callable[..., tuple]:
    def add(indexed: tuple[tf.Tensor, Mapping], example: Mapping) -> tuple[tf.Tensor, Mapping]:
        index, features = indexed
        return index, {**features, CHOICES: choices(example)}

    return add


def _choices(task: seqio.Task, examples: tf.data.Dataset) -> Callable[[Mapping], tf.Tensor] | None:
    """What gives the answers of an example, int32[C, L]; None for a task that offers none."""
    domain = domain_of(task)
    if domain and "candidates" in examples.element_spec:
        items = item_texts(*domain).target_tokens
        number = len(next(examples.as_numpy_iterator())["candidates"])
        shape, table = (number, items.shape[1]), tf.constant(items)
        return lambda e: tf.ensure_shape(tf.gather(table, e["candidates"]), shape)
    if domain and "rating" in examples.element_spec:
        stars = as_matrix(tokens_of_stars(*domain, task.output_features["targets"].vocabulary))
        given = tf.constant(stars)
        return lambda _: given
    return None
