"""The examples that a run is judged by: every task of its mixture that can be."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from recalign import domains
from recalign.errors import UserError
from recalign.evaluation.examples import (
    ALONE,
    Examples,
    RankingExamples,
    RatingExamples,
    RetrievalExamples,
    Share,
    select,
)
from recalign.progress import track
from recalign.samples.inputs import Lengths, mixture_or_task, tasks_of
from recalign.samples.items import item_texts
from recalign.samples.rating import tokens_of_stars, values_of_stars
from recalign.samples.registry import domain_of

Records = list[dict[str, Any]]


def examples(
    mixture_or_task_name: str,
    task_feature_lengths: Lengths,
    split: str,
    module: str | None = None,
    num_examples: int | None = None,
    task: str | None = None,
    share: Share = ALONE,
) -> list[Examples]:
    """The examples of a split, of each task of a mixture that can be judged.

    Those are retrieval, ranking and rating; an auxiliary task is there to be learned from.

    Args:
      mixture_or_task_name: as registered with SeqIO.
      task_feature_lengths: the length of "inputs"; older items of a longer history are dropped.
      split: "validation" or "test".
      module: imported first, so that it can register tasks.
      num_examples: at most so many of each task, the first ones; None takes all.
      task: this one alone.
      share: what of them is made here, see `Data.examples`.

    Raises:
      UserError: if no task can be judged, not the one that is asked for, or no number of them is.
    """
    if num_examples is not None and num_examples < 1:
        raise UserError(f"EVAL_EXAMPLES is {num_examples}, but must be at least 1; None takes all")
    provider = mixture_or_task(mixture_or_task_name, module)
    judged = {t.name: kind for t in tasks_of(provider) if (kind := _kind(t))}
    if task is not None and task not in judged:
        known = ", ".join(sorted(judged)) or "none"
        raise UserError(f"{provider.name} has no task {task!r} that can be judged; it has: {known}")
    if not judged:
        raise UserError(
            f"{provider.name} holds no retrieval, ranking or rating task, so there is nothing to "
            "evaluate: take a mixture that holds one, which may be hardly ever drawn from "
            "(mixing_rate.rates = {'retrieval': 0.001})"
        )
    folders = {domain_of(t) for t in tasks_of(provider) if t.name in judged}
    loaded = {folder: domains.load(*folder) for folder in folders}
    found = []
    for t in tasks_of(provider):
        if t.name in judged and task in (None, t.name):
            records = _read(t, task_feature_lengths, split, num_examples, share)
            made = judged[t.name](t, split, loaded[domain_of(t)], records)
            found.append(_by_user(share.complete(made)))
    return found


def _by_user(made: Examples) -> Examples:
    """Ratings by user and item; a split's other examples are in the order of users as they are."""
    if not isinstance(made, RatingExamples):
        return made
    return select(made, np.lexsort((made.items, made.users)))


def _kind(task: seqio.Task) -> Callable[..., Examples] | None:
    """What makes the examples of a task; None for one that is only learned from."""
    kinds = {"retrieval": _retrieval, "ranking": _ranking, "rating": _rating}
    return kinds.get(task.name.rsplit("_", 1)[-1]) if domain_of(task) else None


def _read(
    task: seqio.Task, lengths: Mapping[str, int], split: str, number: int | None, share: Share
) -> Records:
    """Writes the samples of a share; the records are read whole, for their order."""

    def take_share(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.take(-1 if number is None else number).shard(share.count, share.index)

    to_predict, *to_text = task.preprocessors
    part = seqio.Task(
        task.name,
        source=task.source,
        output_features=task.output_features,
        preprocessors=[to_predict, take_share, *to_text],
    )
    samples = part.get_dataset(dict(lengths), split, shuffle=False, seed=0, try_in_mem_cache=False)
    total = None if number is None else len(range(share.index, number, share.count))
    what = f"reading {split} of {task.name}"
    shown = track(samples.as_numpy_iterator(), what, "example", total, shown=share.index == 0)
    return list(shown)


def _retrieval(
    task: seqio.Task, split: str, domain: domains.Domain, records: Records
) -> RetrievalExamples:
    return RetrievalExamples(**_next_item(task, split, domain, records))


def _ranking(
    task: seqio.Task, split: str, domain: domains.Domain, records: Records
) -> RankingExamples:
    return RankingExamples(
        candidates=np.array([record["candidates"] for record in records], np.int32),
        **_next_item(task, split, domain, records),
    )


def _next_item(
    task: seqio.Task, split: str, domain: domains.Domain, records: Records
) -> dict[str, Any]:
    histories = [record["seen"] for record in records]
    return {
        "task": task.name,
        "split": split,
        "domain": domain,
        "inputs": [record["inputs"] for record in records],
        "given": [record["given"] for record in records],
        "offsets": np.cumsum([0, *map(len, histories)]),
        "events": np.concatenate([*histories, np.zeros(0, np.int32)]).astype(np.int32),
        "targets": np.array([record["item"] for record in records], np.int32),
    }


def _rating(
    task: seqio.Task, split: str, domain: domains.Domain, records: Records
) -> RatingExamples:
    vocabulary = task.output_features["targets"].vocabulary
    return RatingExamples(
        task=task.name,
        split=split,
        domain=domain,
        inputs=[record["inputs"] for record in records],
        users=np.array([record["user"] for record in records], np.int32),
        items=np.array([record["item"] for record in records], np.int32),
        ratings=np.array([record["rating"] for record in records], np.float32),
        values=np.array([*values_of_stars(*domain_of(task)).values()]),
        stars=tokens_of_stars(*domain_of(task), vocabulary),
    )


def catalogue(
    mixture_or_task_name: str, module: str | None = None
) -> tuple[np.ndarray, os.PathLike] | None:
    """How the model must write each item of the domain of a mixture, and where that domain lives.

    Returns:
      `ItemTexts.target_tokens`, int32[n, L], and the domain's folder; None if the mixture holds no
      retrieval or ranking task.
    """
    for task in tasks_of(mixture_or_task(mixture_or_task_name, module)):
        if _kind(task) in (_retrieval, _ranking):
            name, folder = domain_of(task)
            return item_texts(name, folder).target_tokens, domains.data_dir(folder) / name
    return None
