"""Registers the SeqIO tasks and mixtures of a domain."""

import functools

import gin
import seqio
import tensorflow_datasets as tfds

from recalign import domains
from recalign.samples import metric_fns, preprocessors
from recalign.samples.items import domain_vocabulary

# TFDS would keep small builds in memory, and every checkpoint of the input would hold them.
seqio.utils.set_tfds_read_config_override(tfds.ReadConfig(try_autocache=False))

# The domain and data folder of every task registered here.
_DOMAIN_OF_TASK: dict[str, tuple[str, str]] = {}


@gin.configurable
def mixing_rate(task: seqio.Task, rates: dict[str, float] | None = None) -> float:
    """The rate of a task in its mixtures, 1 unless `rates` names its kind ("retrieval", "mim", …).

    Equal rates mean that every batch holds as many samples of each kind, however many a kind has.
    """
    kind = task.name.rsplit("_", 1)[-1]
    return (rates or {}).get(kind, 1.0)


def register_domain(name: str, data_dir: str | None = None) -> None:
    """Registers every task and mixture of a prepared domain; twice is the same as once.

    Tasks: `NAME_retrieval`, `NAME_mim`, `NAME_mlm`, `NAME_bpr`, each with the splits train,
    validation and test. Mixtures: `NAME_aligned` (all four) and `NAME_retrieval_only`.

    Args:
      name: the domain, as given to `recalign prepare --name`. It need not be prepared yet.
      data_dir: where it lives, a local folder or a bucket; by default as for every command.
    """
    if f"{name}_retrieval" in seqio.TaskRegistry.names():
        return
    folder = str(domains.data_dir(data_dir))
    vocabulary = domain_vocabulary(name, folder)
    features = {
        side: seqio.Feature(vocabulary=vocabulary, add_eos=True) for side in ("inputs", "targets")
    }
    source = seqio.TfdsDataSource(tfds_name=f"{name}:1.0.0", tfds_data_dir=folder)
    tokenize = functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False)

    def add(kind: str, examples, to_sample, *finish, **judged_by) -> str:
        _DOMAIN_OF_TASK[f"{name}_{kind}"] = (name, folder)
        return seqio.TaskRegistry.add(
            f"{name}_{kind}",
            source=source,
            preprocessors=[
                examples,
                seqio.CacheDatasetPlaceholder(),
                functools.partial(to_sample, domain=name, data_dir=folder),
                *finish,
                seqio.preprocessors.append_eos,
            ],
            output_features=features,
            **judged_by,
        ).name

    positions, sequences = preprocessors.next_item_positions, preprocessors.whole_sequences
    retrieval = add(
        "retrieval",
        positions,
        preprocessors.retrieval,
        tokenize,
        postprocess_fn=metric_fns.next_item_or_texts,
        metric_fns=[functools.partial(metric_fns.full_ranking, domain=name, data_dir=folder)],
    )
    auxiliary = [
        add("mim", sequences, preprocessors.mim, tokenize),
        add("mlm", sequences, preprocessors.mlm),
        add("bpr", positions, preprocessors.bpr, tokenize),
    ]
    seqio.MixtureRegistry.add(f"{name}_retrieval_only", [retrieval], default_rate=mixing_rate)
    seqio.MixtureRegistry.add(f"{name}_aligned", [retrieval, *auxiliary], default_rate=mixing_rate)


def domain_of(task: seqio.Task) -> tuple[str, str] | None:
    """The name and data folder of the domain that a task was registered for, if it was."""
    return _DOMAIN_OF_TASK.get(task.name)


def register_prepared_domains() -> None:
    """Registers every domain that is prepared in the default data folder."""
    for name in domains.prepared():
        register_domain(name)
