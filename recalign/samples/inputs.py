"""What the engine is fed to train on."""

import contextlib
import difflib
import functools
import hashlib
import importlib
import inspect
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf
from clu.data import dataset_iterator
from etils import epath

from recalign import domains
from recalign.domains.domain import MIN_EVENTS
from recalign.errors import UserError, check_module_name, telling_of_own_code
from recalign.files import locate
from recalign.samples.answers import FeatureConverter, mark_given
from recalign.samples.items import check_readable
from recalign.samples.registry import (
    domain_in,
    domain_of,
    follow_data_dir,
    mixing_rate,
    up_to_last_choice,
)

log = logging.getLogger(__name__)

Lengths = Mapping[str, int]
# Between the seeds of two streams: SeqIO counts on from each for every draw of a task.
_BETWEEN_SEEDS = 1 << 20


def train_batches(
    mixture_or_task_name: str,
    task_feature_lengths: Lengths,
    batch_size: int,
    seed: int,
    module: str | None = None,
    split: str = "train",
    pack: bool = True,
    use_cached: bool = False,
    cache_dirs: Sequence[str] = (),
    streams: int = 1,
    held: np.ndarray | None = None,
    own: np.ndarray | None = None,
) -> "Batches":
    """Endless batches of a task or mixture, in an order that is a function of the seed.

    Each of the streams reads, writes and packs a part of the records by itself, and makes as many
    rows of every batch as any other. A process makes those that it needs rows of; so batches, and
    positions in them, hang on the number of streams and not on that of processes.

    Args:
      mixture_or_task_name: as registered with SeqIO.
      task_feature_lengths: the lengths of "inputs" and "targets"; longer ones are cut.
      batch_size: rows a batch; packed, a row holds as many samples as fit.
      seed: decides order, masks, negatives and paraphrases.
      module: imported first, so that it can register tasks.
      split: of the task's data.
      pack: several samples a row, told apart by segment ids.
      use_cached: reads what `seqio_cache_tasks` wrote instead of the source. These are the same
        examples in another order, since it shuffles them, so that the batches differ from those of
        the source as they do between two seeds.
      cache_dirs: further folders to look for the caches in, beside SeqIO's own.
      streams: how many; one of them gives what `seqio.get_dataset` does.
      held: int64[h], the rows of each batch that are given; by default all.
      own: those of them that no other process answers for; who has the first row of a stream writes
        its position.

    Returns:
      An iterator of batches of SeqIO's encoder-decoder features, int32[h, length] each, whose
      position can be saved and restored.

    Raises:
      UserError: nothing of that name is registered, its domain is not prepared, a task of it is to
        be read from a cache and is in none, or has no sample in a stream; or the rows of a batch
        cannot be shared out among the streams.
    """
    if batch_size % streams:
        raise UserError(
            f"INPUT_STREAMS is {streams}, but must divide the {batch_size} rows of a batch "
            "(BATCH_SIZE)"
        )
    lengths = mark_given(task_feature_lengths)
    provider = mixture_or_task(mixture_or_task_name, module)
    if use_cached:
        _check_cached(provider, cache_dirs, module)
    options = tf.data.Options()
    options.deterministic = True

    def stream(number: int, rows: int) -> _Stream:
        part = seqio.ShardInfo(number, streams) if streams > 1 else None
        check_samples(provider, lengths, split, use_cached, part)
        dataset = provider.get_dataset(
            lengths,
            split,
            use_cached=use_cached,
            shuffle=True,
            seed=seed + number * _BETWEEN_SEEDS,
            shard_info=part,
            num_epochs=None,
            # What is cached in memory would be a part of every checkpoint.
            try_in_mem_cache=False,
        )
        dataset = FeatureConverter(pack=pack)(dataset, lengths).batch(rows, drop_remainder=True)
        return _Stream(dataset.with_options(options).prefetch(2), checkpoint=True)

    held = np.arange(batch_size) if held is None else held
    return Batches(stream, streams, batch_size, held, held if own is None else own)


class Batches:
    """Some rows of each batch, whose position can be saved and restored.

    Args:
      stream: makes the stream of a number, which gives so many rows at a time.
      streams: how many there are; each makes rows that follow each other.
      batch_size: the rows of all.
      held: int64[h], the rows that are given.
      own: those of them that no other process answers for.
    """

    def __init__(
        self,
        stream: Callable[[int, int], "_Stream"],
        streams: int,
        batch_size: int,
        held: np.ndarray,
        own: np.ndarray,
    ):
        rows = batch_size // streams
        needed = np.unique(held // rows).tolist()
        made = (np.array(needed)[:, None] * rows + np.arange(rows)).ravel()
        if len(made) > len(held):
            log.warning(
                "this process needs %d rows of each batch and makes %d: with INPUT_STREAMS at "
                "least the number of processes, each makes its own alone (a new run: other "
                "streams are other batches)",
                len(held),
                len(made),
            )
        self._streams = {number: stream(number, rows) for number in needed}
        self._chosen = np.searchsorted(made, held)
        self._own = [number for number in needed if number * rows in own]
        self._count = streams

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """int32[h, length] of each of SeqIO's encoder-decoder features."""
        parts = [next(stream) for stream in self._streams.values()]
        return {
            name: np.concatenate([part[name] for part in parts])[self._chosen] for name in parts[0]
        }

    def save(self, path: epath.PathLike) -> None:
        """Writes the positions of the streams whose first row is this process's own."""
        for number in self._own:
            self._streams[number].save(self._file(path, number))

    def restore(self, path: epath.PathLike) -> None:
        """Goes to a position that was saved, by however many processes.

        Raises:
          Exception: it is one in other samples, or in batches of other shapes.
        """
        for number, stream in self._streams.items():
            stream.restore(self._file(path, number))

    def reset(self) -> None:
        """Starts anew."""
        for stream in self._streams.values():
            stream.reset()

    def _file(self, path: epath.PathLike, number: int) -> str:
        """Where the position of a stream is; that of one alone as earlier versions have it."""
        return os.fspath(path) + (f"_{number}_of_{self._count}" if self._count > 1 else "")


class _Stream(dataset_iterator.TfDatasetIterator):
    """Rows of batches, whose position can be saved and restored."""

    def restore(self, filename: epath.PathLike) -> None:
        """Goes to a position that was saved.

        Raises:
          Exception: it is one in other samples, or in batches of other shapes; TensorFlow notices
            the latter at the next batch, which is therefore read.
        """
        super().restore(filename)
        try:
            next(self)
        except StopIteration as end:  # seldom it is this, according to what was read ahead
            raise ValueError("Incompatible shapes: samples without end came to one") from end
        super().restore(filename)


def _check_cached(
    provider: seqio.Task | seqio.Mixture, cache_dirs: Sequence[str], module: str | None
) -> None:
    """Makes the folders known to SeqIO, and raises a UserError unless every task is in one."""
    seqio.add_global_cache_dirs([str(locate(folder)) for folder in cache_dirs])
    absent = [task.name for task in tasks_of(provider) if not task.cache_dir]
    if absent:
        raise UserError(
            f"USE_CACHED_TASKS: {', '.join(absent)} not cached in "
            f"{', '.join(seqio.get_global_cache_dirs()) or 'any folder'}; run `seqio_cache_tasks "
            f"--module_import={module or 'recalign.tasks'} --tasks={','.join(absent)} "
            "--output_cache_dir=DIR` and train with --seqio_additional_cache_dirs=DIR"
        )


def check_samples(
    provider: seqio.Task | seqio.Mixture,
    lengths: Lengths,
    split: str,
    use_cached: bool = False,
    part: seqio.ShardInfo | None = None,
) -> None:
    """Reads one sample of every task that is drawn from: SeqIO ends a mixture where a task ends.

    Args:
      provider: the task or mixture.
      lengths: `TASK_FEATURE_LENGTHS`.
      split: of the task's data.
      use_cached: reads from caches.
      part: the part of the records that is to have one; by default all.

    Raises:
      UserError: a domain is not prepared, a task has no sample, one of the user's own cannot make
        it, no task is drawn from, or none has the split.
    """
    _check_prepared(provider)
    drawn = tasks_of(provider)
    if not drawn:
        raise UserError(f"{provider.name} has no sample: every task of it has the mixing rate 0")
    splits: set[str] = set()
    for task in drawn:
        own = contextlib.nullcontext() if domain_of(task) else telling_of_own_code(task.name)
        with own:
            splits |= {*task.splits}
            if split not in task.splits:
                continue
            samples = (task if use_cached else up_to_last_choice(task)).get_dataset(
                lengths,
                split,
                use_cached=use_cached,
                shuffle=False,
                seed=0,
                shard_info=part,
                num_epochs=1,
                try_in_mem_cache=False,
            )
            if (sample := next(iter(samples.take(1)), None)) is not None:
                if not domain_of(task):
                    _check_tokens(task, sample)
                continue
        if part:
            raise UserError(
                f"INPUT_STREAMS is {part.num_shards}, but the records of stream {part.index} give "
                f"{task.name} no sample in {split}: take fewer streams"
            )
        raise UserError(tell_why_none(task, split))
    if split not in splits:
        raise UserError(
            f"{provider.name} has no split {split}, but {', '.join(sorted(splits)) or 'none'}"
        )


def _check_tokens(task: seqio.Task, sample: Mapping[str, tf.Tensor]) -> None:
    """Raises a UserError for a token that the task's vocabulary has not; given ones are marked."""
    for name in FeatureConverter.TASK_FEATURES:
        tokens, size = sample[name].numpy(), task.output_features[name].vocabulary.vocab_size
        if name == "targets" and "given" in sample:
            tokens = abs(tokens)
        if (wrong := tokens[(tokens < 0) | (tokens >= size)]).size:
            raise UserError(
                f"{task.name} has the token {wrong.flat[0]} in {name}, but those of its vocabulary "
                f"are 0 to {size - 1}"
            )


def tell_why_none(task: seqio.Task, split: str) -> str:
    """A sentence that names a task without a sample in a split, and what it lacks."""
    reason = "none of its records gives one"
    if domain_of(task):
        domain = domains.load(*domain_of(task))
        if split == "train" and np.diff(domain.train().offsets).max() < 2:
            reason = (
                f"no user of {domain.name} has two events to learn from, since the last two of "
                f"those with {MIN_EVENTS} or more are held out"
            )
        elif task.name.endswith("_bpr"):
            reason = (
                f"every user of {domain.name} has all {domain.num_items} items, so that none is "
                "left to set against another; mixing_rate.rates = {'bpr': 0} leaves bpr out"
            )
    return f"{task.name} has no sample in {split}: {reason}"


def _check_prepared(provider: seqio.Task | seqio.Mixture) -> None:
    """Raises a UserError unless every task has our features, in one vocabulary that can be read.

    And unless every domain is prepared.
    """
    for task in seqio.get_subtasks(provider):
        if not task.output_features.keys() >= FeatureConverter.TASK_FEATURES.keys():
            raise UserError(
                f"{task.name} has the features {', '.join(task.output_features) or 'none'}, but a "
                f"T5 is trained on {' and '.join(FeatureConverter.TASK_FEATURES)}"
            )
    # The tasks of a mixture mostly share one domain, which need not be read for each of them.
    for domain in _domains_of(provider):
        domains.statistics_of(*domain)
    for feature in provider.output_features.values():
        check_readable(feature.vocabulary, provider.name)
    first, *others = seqio.get_subtasks(provider)
    for task in others:
        for name, feature in first.output_features.items():
            if task.output_features[name].vocabulary != feature.vocabulary:
                raise UserError(
                    f"{provider.name} mixes {first.name} and {task.name}, whose vocabularies "
                    "differ: prepare their domains with one and the same --vocabulary FILE"
                )


def vocabulary_size(mixture_or_task_name: str, module: str | None = None) -> int:
    """How many token ids the samples of a task or mixture may hold, sentinels included.

    Raises:
      UserError: its domain is not prepared, or the vocabulary cannot be read.
    """
    provider = mixture_or_task(mixture_or_task_name, module)
    _check_prepared(provider)
    return max(feature.vocabulary.vocab_size for feature in provider.output_features.values())


def provenance(mixture_or_task_name: str, module: str | None = None) -> dict[str, str]:
    """What the parameters of a model belong to: the vocabulary, and the content of each domain.

    Returns:
      Names ("vocabulary", "domain NAME") and fingerprints, each "KIND DIGEST".
    """
    provider = mixture_or_task(mixture_or_task_name, module)
    _check_prepared(provider)
    vocabulary = provider.output_features["targets"].vocabulary
    digest = hashlib.sha256(vocabulary.sp_model).hexdigest()[:16]
    found = {"vocabulary": f"sha256 {digest}"}
    for name, folder in _domains_of(provider):
        # The kind is not that of earlier versions, which hashed the bytes of the item table alone.
        found[f"domain {name}"] = f"content {domains.fingerprint(name, folder)}"
    return found


def import_tasks(module: str | None, option: str = "MIXTURE_OR_TASK_MODULE") -> None:
    """Imports a module that registers tasks, which follow the default data folder from then on.

    Args:
      module: its name; None for none.
      option: that names it.

    Raises:
      UserError: there is no such module, or it cannot be imported.
    """
    if module:
        check_module_name(option, module)
        with telling_of_own_code(f"{option}: {module} cannot be imported"):
            _import(module, option)
    follow_data_dir()


def _import(module: str, option: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):
            raise UserError(
                f"{option}: {module} needs {error.name!r}, which is not there"
            ) from error
        raise UserError(f"{option}: there is no module {module!r}") from error
    except SyntaxError as error:
        raise UserError(f"{option}: {module} is no Python: {error}") from error


def mixture_or_task(name: str, module: str | None = None) -> seqio.Task | seqio.Mixture:
    """A registered task or mixture.

    Raises:
      UserError: if the module cannot be imported or nothing of that name is registered; where its
        domain is missed, and similar names, are told.
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
    hint = f"did you mean {' or '.join(near)}?" if near else "nothing is similar;"
    domain, prepared = domain_in(name), domains.list_prepared()
    if domain is None or f"{domain}_mim" in registered:
        return hint
    if domain in prepared:
        return (
            f"domain {domain!r} is prepared, but no module that was imported registers it: name "
            f"recalign.tasks (MIXTURE_OR_TASK_MODULE), or call register_domain({domain!r}) in "
            f"yours; {hint}"
        )
    return (
        f"domain {domain!r} is not prepared in {domains.data_dir()} (prepared there: "
        f"{', '.join(prepared) or 'none'}): prepare it, or tell its folder by --data_dir; {hint}"
    )


def _domains_of(provider: seqio.Task | seqio.Mixture) -> set[tuple[str, str]]:
    """The name and data folder of every domain that tasks were registered for."""
    return {domain_of(task) for task in tasks_of(provider)} - {None}


def tasks_of(provider: seqio.Task | seqio.Mixture) -> list[seqio.Task]:
    """The tasks of a mixture whose rate is not 0; a task is its own only one.

    Raises:
      UserError: a rate is no number from 0 on.
    """
    if not isinstance(provider, seqio.Mixture):
        return [provider]
    drawn = []
    for task in provider.tasks:
        with telling_of_own_code(f"{provider.name}, the rate of {task.name}"):
            rate = float(provider.get_rate(task))
        if not 0 <= rate < math.inf:
            raise UserError(
                f"{provider.name} has {task.name} at the rate {rate}, but rates must be 0 or more"
            )
        if rate:
            drawn.append(task)
    return drawn


def idle(provider: seqio.Task | seqio.Mixture) -> set[str]:
    """What would make the samples of tasks that are left out, "recalign.samples.bpr.bpr".

    One task alone has no rate in a mixture.
    """
    read = {task.name for task in tasks_of(provider)}
    made = {
        function
        for task in seqio.get_subtasks(provider)
        if task.name not in read
        for step in task.preprocessors
        for function in _functions(step)
    }
    made |= set() if isinstance(provider, seqio.Mixture) else {mixing_rate}
    return {f"{function.__module__}.{function.__name__}" for function in made}


def _functions(step: Callable) -> Iterator[Callable]:
    """A preprocessor and what it was made of."""
    if isinstance(step, functools.partial):
        for part in filter(callable, (step.func, *step.args)):
            yield from _functions(part)
    elif inspect.isfunction(step):
        yield step
