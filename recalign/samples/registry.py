"""Registers the SeqIO tasks and mixtures of a domain."""

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import gin
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from recalign import domains
from recalign.domains.records import RATING, VERSION
from recalign.errors import UserError
from recalign.samples import (
    answers,
    bpr,
    metric_fns,
    mim,
    mlm,
    ranking,
    rating,
    records,
    retrieval,
    sequences,
)
from recalign.samples.items import domain_vocabulary

# TFDS would keep small builds in memory, and every checkpoint of the input would hold them.
seqio.utils.set_tfds_read_config_override(tfds.ReadConfig(try_autocache=False))

_RECOMMENDATION = ("retrieval", "ranking", "rating")
_TASKS = (*_RECOMMENDATION, "mim", "mlm", "bpr")
_MIXTURES = (
    "aligned",
    "recommendation",
    "auxiliary",
    *(f"{kind}_only" for kind in _RECOMMENDATION),
)

# The domain and data folder of every task registered here.
_DOMAIN_OF_TASK: dict[str, tuple[str, str]] = {}


class _State(NamedTuple):
    """What the tasks of a domain were registered for: the vocabulary by what it holds."""

    folder: str
    vocabulary: seqio.Vocabulary
    rated: bool


_STATE_OF_DOMAIN: dict[str, _State] = {}
# The domains that were registered for a folder of their own, not for the default one.
_OF_OWN_FOLDER: set[str] = set()


@gin.configurable
def mixing_rate(
    task: seqio.Task, rates: dict[str, float] | None = None, left_out: Collection[str] = ()
) -> float:
    """The rate of a task in its mixtures, 1 unless `rates` names its kind ("retrieval", "mim", …).

    Equal rates mean that every batch holds as many samples of each kind, however many a kind has.
    Kinds that are `left_out` have the rate 0, so that an ablation leaves a recipe's rates alone.
    What has the rate 0 is neither trained on nor judged.

    Raises:
      UserError: there is no such kind, or a rate is negative.
    """
    for option, named in (("rates", rates or {}), ("left_out", left_out)):
        known = {*_TASKS, *map(_kind_of, seqio.TaskRegistry.names())}
        if unknown := sorted({*named} - known):
            raise UserError(
                f"mixing_rate.{option} names {', '.join(unknown)}, but the kinds of task are "
                f"{', '.join(_TASKS)}"
            )
    kind = _kind_of(task.name)
    rate = 0.0 if kind in left_out else (rates or {}).get(kind, 1.0)
    if not 0 <= rate < math.inf:
        raise UserError(f"mixing_rate.rates[{kind!r}] is {rate}, but must be 0 or more")
    return rate


def _kind_of(name: str) -> str:
    return name.rpartition("_")[2]


def register_domain(name: str, data_dir: str | None = None) -> None:
    """Registers every task and mixture of a prepared domain; twice is the same as once.

    Tasks: `NAME_retrieval`, `NAME_ranking`, `NAME_rating` (where the domain has ratings),
    `NAME_mim`, `NAME_mlm`, `NAME_bpr`, each with the splits train, validation and test. Mixtures:
    `NAME_aligned` (all of them), `NAME_recommendation` (the first three), `NAME_auxiliary` (the
    others), and `NAME_retrieval_only`, `NAME_ranking_only`, `NAME_rating_only`.

    Args:
      name: the domain, as given to `recalign prepare --name`. It need not be prepared yet: whether
        it has ratings, and a vocabulary of its own, is then taken to be no. Registering it again
        once it is prepared, or prepared anew, replaces its tasks and mixtures.
      data_dir: where it lives, a local folder or a bucket; by default as for every command.
    """
    folder = domains.data_dir(data_dir)
    (_OF_OWN_FOLDER.add if data_dir else _OF_OWN_FOLDER.discard)(name)
    vocabulary = domain_vocabulary(name, str(folder))
    # By the build, not by statistics.json: it is what the task reads.
    rated = (folder / name / RATING / VERSION).exists()
    state = _State(str(folder), vocabulary, rated)
    if _STATE_OF_DOMAIN.get(name) == state:
        return
    _forget(name)
    _STATE_OF_DOMAIN[name] = state
    _add_mixtures(name, *_add_tasks(name, str(folder), vocabulary, rated))


def _add_tasks(
    name: str, folder: str, vocabulary: seqio.Vocabulary, rated: bool
) -> tuple[list[str], list[str]]:
    """Registers the tasks of a domain: the names of recommendation tasks, and of auxiliary ones."""
    features = {
        side: seqio.Feature(vocabulary=vocabulary, add_eos=True) for side in ("inputs", "targets")
    }
    of_domain = functools.partial(functools.partial, domain=name, data_dir=folder)

    def add(kind: str, examples, to_sample, *finish, build: str = name, **judged_by) -> str:
        _DOMAIN_OF_TASK[f"{name}_{kind}"] = (name, folder)
        return seqio.TaskRegistry.add(
            f"{name}_{kind}",
            source=records.Records(tfds_name=f"{build}:{VERSION}", tfds_data_dir=folder),
            preprocessors=[
                _as_written(examples),
                seqio.CacheDatasetPlaceholder(),
                _as_written(of_domain(to_sample)),
                *finish,
                _as_written(answers.to_tokens),
            ],
            output_features=features,
            **judged_by,
        ).name

    positions, whole = sequences.next_item_positions, sequences.whole_sequences
    recommendation = [
        add(
            "retrieval",
            positions,
            retrieval.retrieval,
            postprocess_fn=metric_fns.next_item_or_texts,
            metric_fns=[of_domain(metric_fns.full_ranking)],
        ),
        add(
            "ranking",
            positions,
            ranking.ranking,
            postprocess_fn=metric_fns.column_of_target,
            metric_fns=[metric_fns.candidate_ranking],
        ),
    ]
    if rated:
        recommendation.append(
            add(
                "rating",
                rating.ratings_to_predict,
                rating.rating,
                build=f"{name}/{RATING}",
                postprocess_fn=metric_fns.rating_or_text,
                metric_fns=[
                    of_domain(metric_fns.written_rating),
                    of_domain(metric_fns.expected_rating),
                ],
            )
        )
    auxiliary = [
        add("mim", whole, mim.mim),
        add("mlm", whole, mlm.mlm, seqio.preprocessors.append_eos),
        add("bpr", positions, bpr.bpr),
    ]
    return recommendation, auxiliary


def _as_written(preprocessor: Callable[..., tf.data.Dataset]) -> Callable[..., tf.data.Dataset]:
    """The same, of which AutoGraph makes no Python of its own.

    That takes seconds of every start, and is for `if` and `for` over tensors, which ours have not.
    """
    plain = functools.partial(_call_as_written, preprocessor)
    # SeqIO gives what is asked for by name.
    plain.__signature__ = inspect.signature(preprocessor)  # type: ignore[attr-defined]
    return plain


def _call_as_written(preprocessor: Callable[..., tf.data.Dataset], *arguments, **options):
    return tf.autograph.experimental.do_not_convert(preprocessor)(*arguments, **options)


class _Mixture(seqio.Mixture):
    """Builds the tasks alone that are drawn from; those of rate 0 need not even fit.

    TensorFlow drops these before it draws, so that the others are drawn as they would be.
    """

    def get_dataset(self, *arguments, **options) -> tf.data.Dataset:
        rates = [(task, self.get_rate(task)) for task in self.tasks]
        drawn = seqio.Mixture(self.name, [(task, rate) for task, rate in rates if rate])
        return drawn.get_dataset(*arguments, **options)


def _add_mixtures(name: str, recommendation: list[str], auxiliary: list[str]) -> None:
    mixtures = {
        "aligned": [*recommendation, *auxiliary],
        "recommendation": recommendation,
        "auxiliary": auxiliary,
        **{f"{task.removeprefix(f'{name}_')}_only": [task] for task in recommendation},
    }
    for mixture, tasks in mixtures.items():
        seqio.MixtureRegistry.add(
            f"{name}_{mixture}", tasks, default_rate=mixing_rate, mixture_cls=_Mixture
        )


def _forget(name: str) -> None:
    """Takes what was registered for a domain out of SeqIO's registries."""
    _STATE_OF_DOMAIN.pop(name, None)
    for kind in _TASKS:
        seqio.TaskRegistry.remove(f"{name}_{kind}")
        _DOMAIN_OF_TASK.pop(f"{name}_{kind}", None)
    for kind in _MIXTURES:
        seqio.MixtureRegistry.remove(f"{name}_{kind}")


@contextlib.contextmanager
def domains_in(folder: str | None) -> Iterator[None]:
    """Has the domains that are prepared in a folder registered from there for a while."""
    names = domains.list_prepared(folder) if folder else []
    before = {name: _STATE_OF_DOMAIN.get(name) for name in names}
    own = _OF_OWN_FOLDER & before.keys()
    for name in names:
        register_domain(name, folder)
    try:
        yield
    finally:
        for name, state in before.items():
            if state is None:
                _forget(name)
            else:
                register_domain(name, state.folder if name in own else None)


def domain_of(task: seqio.Task) -> tuple[str, str] | None:
    """The name and data folder of the domain that a task was registered for, if it was."""
    return _DOMAIN_OF_TASK.get(task.name)


def up_to_last_choice(task: seqio.Task) -> seqio.Task:
    """A task that has a sample where the given one has, without what writes each of ours as text.

    Building that is most of what building a pipeline takes. Auxiliary tasks choose as they write.
    """
    if not domain_of(task) or _kind_of(task.name) not in _RECOMMENDATION:
        return task
    return seqio.Task(
        task.name, source=task.source, output_features={}, preprocessors=task.preprocessors[:1]
    )


def domain_in(name: str) -> str | None:
    """The domain that a task or mixture is of by its name, be it registered or not."""
    kinds = (kind for kind in (*_MIXTURES, *_TASKS) if name.endswith(f"_{kind}"))
    return next((name.removesuffix(f"_{kind}") for kind in kinds), None)


def register_prepared_domains() -> None:
    """Registers every domain that is prepared in the default data folder.

    Those that were registered for a folder of their own stay as they are.
    """
    for name in domains.list_prepared():
        if name not in _OF_OWN_FOLDER:
            register_domain(name)


def follow_data_dir() -> None:
    """Registers domains anew that are others by now, or in another default data folder."""
    for name, state in [*_STATE_OF_DOMAIN.items()]:
        register_domain(name, state.folder if name in _OF_OWN_FOLDER else None)
