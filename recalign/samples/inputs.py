"""What the engine is fed: batches to train on, and examples to rank the catalogue for."""

import difflib
import importlib
from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf
from clu.data import dataset_iterator

from recalign import domains
from recalign.errors import UserError
from recalign.evaluation.examples import RetrievalExamples
from recalign.samples.items import item_texts
from recalign.samples.questions import Questions
from recalign.samples.registry import domain_of

Lengths = Mapping[str, int]


def train_batches(
    mixture_or_task_name: str,
    task_feature_lengths: Lengths,
    batch_size: int,
    seed: int,
    module: str | None = None,
    split: str = "train",
    pack: bool = True,
    use_cached: bool = False,
) -> dataset_iterator.TfDatasetIterator:
    """Endless batches of a task or mixture, in an order that is a function of the seed.

    Args:
      mixture_or_task_name: as registered with SeqIO.
      task_feature_lengths: the lengths of "inputs" and "targets"; longer ones are cut.
      batch_size: rows a batch; packed, a row holds as many samples as fit.
      seed: decides order, masks, negatives and paraphrases.
      module: imported first, so that it can register tasks.
      split: of the task's data.
      pack: several samples a row, told apart by segment ids.
      use_cached: reads what `seqio_cache_tasks` wrote instead of the source.

    Returns:
      An iterator of batches of SeqIO's encoder-decoder features, int32[batch_size, length] each,
      whose position can be saved and restored.
    """
    lengths = dict(task_feature_lengths)
    dataset = mixture_or_task(mixture_or_task_name, module).get_dataset(
        lengths,
        split,
        use_cached=use_cached,
        shuffle=True,
        seed=seed,
        num_epochs=None,
        # What is cached in memory would be a part of every checkpoint.
        try_in_mem_cache=False,
    )
    converter = seqio.EncDecFeatureConverter(pack=pack)
    dataset = converter(dataset, lengths).batch(batch_size, drop_remainder=True)
    options = tf.data.Options()
    options.deterministic = True
    dataset = dataset.with_options(options).prefetch(2)
    return dataset_iterator.TfDatasetIterator(dataset, checkpoint=True)


def retrieval_examples(
    mixture_or_task_name: str,
    task_feature_lengths: Lengths,
    split: str,
    module: str | None = None,
    num_examples: int | None = None,
) -> RetrievalExamples:
    """The examples of a split for which the catalogue is to be ranked.

    Args:
      mixture_or_task_name: a retrieval task, or a mixture that holds one.
      task_feature_lengths: the length of "inputs"; older items of a longer history are dropped.
      split: "validation" or "test".
      module: imported first, so that it can register tasks.
      num_examples: at most so many, the first ones; None takes all.

    Raises:
      UserError: if the mixture holds no retrieval task.
    """
    task = _retrieval_task(mixture_or_task(mixture_or_task_name, module))
    domain = domain_of(task)
    dataset = task.get_dataset(
        dict(task_feature_lengths), split, shuffle=False, seed=0, try_in_mem_cache=False
    )
    examples = list(dataset.take(num_examples or -1).as_numpy_iterator())
    eos = task.output_features["targets"].vocabulary.eos_id
    targets = item_texts(*domain).target_tokens
    histories = [example["seen"] for example in examples]
    return RetrievalExamples(
        task=task.name,
        split=split,
        inputs=[example["inputs"] for example in examples],
        offsets=np.cumsum([0, *map(len, histories)]),
        events=np.concatenate([*histories, np.zeros(0, np.int32)]).astype(np.int32),
        targets=np.array([example["item"] for example in examples], np.int32),
        domain=domains.load(*domain),
        catalogue=[np.append(tokens, np.int32(eos)) for tokens in targets],
        ask=Questions(task, task_feature_lengths),
    )


def vocabulary_size(mixture_or_task_name: str, module: str | None = None) -> int:
    """How many token ids the samples of a task or mixture may hold, sentinels included.

    Raises:
      UserError: its domain is not prepared, or the vocabulary cannot be read.
    """
    provider = mixture_or_task(mixture_or_task_name, module)
    # The tasks of a mixture mostly share one domain, which need not be read for each of them.
    for domain in {domain_of(task) for task in _tasks_of(provider)} - {None}:
        domains.load(*domain)
    try:
        return max(f.vocabulary.vocab_size for f in provider.output_features.values())
    except tf.errors.OpError as error:
        raise UserError(
            f"the vocabulary of {mixture_or_task_name} cannot be read ({error.message}): prepare "
            "the domain with --vocabulary FILE, or with --vocab_size N for one of its own"
        ) from error


def import_tasks(module: str | None) -> None:
    """Imports a module that registers tasks.

    Raises:
      UserError: there is no such module.
    """
    try:
        if module:
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"MIXTURE_OR_TASK_MODULE: there is no module {module!r}") from error


def mixture_or_task(name: str, module: str | None = None) -> seqio.Task | seqio.Mixture:
    """A registered task or mixture.

    Raises:
      UserError: if the module cannot be imported or nothing of that name is registered; similar
        names are told.
    """
    import_tasks(module)
    registered = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    if name not in registered:
        raise UserError(
            f"no task or mixture is named {name!r}; {_suggest(name, registered)} "
            "`recalign tasks` lists all"
        )
    return seqio.get_mixture_or_task(name)


def _suggest(name: str, registered: list[str]) -> str:
    near = difflib.get_close_matches(name, registered, n=3)
    return f"did you mean {' or '.join(near)}?" if near else "nothing is similar;"


def _tasks_of(provider: seqio.Task | seqio.Mixture) -> list[seqio.Task]:
    return getattr(provider, "tasks", [provider])


def _retrieval_task(provider: seqio.Task | seqio.Mixture) -> seqio.Task:
    for task in _tasks_of(provider):
        if task.name.endswith("_retrieval") and domain_of(task):
            return task
    raise UserError(f"{provider.name} holds no retrieval task, so there is nothing to evaluate")
