"""What tasks there are, and what their samples look like to the model."""

import dataclasses
from collections.abc import Iterator, Mapping

import gin
import numpy as np
import seqio

from recalign.samples.answers import mark_given

MEASURED = 1000


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample as the model sees it, and its lengths in tokens, EOS included.

    `given` is what `targets` begins with and the model is told.
    """

    inputs: str
    targets: str
    given: str
    inputs_tokens: int
    targets_tokens: int


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How long the samples of a feature are before anything is left out, in tokens with EOS.

    Attributes:
      mean: of `MEASURED` samples.
      p95: their 95th percentile.
      longest: of them.
      limit: `TASK_FEATURE_LENGTHS`.
      shortened: the share that is longer than the limit.
    """

    mean: float
    p95: float
    longest: int
    limit: int
    shortened: float


@gin.configurable
def feature_lengths(lengths: Mapping[str, int]) -> Mapping[str, int]:
    """`TASK_FEATURE_LENGTHS` of the current configuration."""
    return lengths


def list_registered() -> dict[str, list[str]]:
    """The tasks of every mixture, and every task as a list of itself."""
    mixtures = {
        name: [task.name for task in seqio.MixtureRegistry.get(name).tasks]
        for name in seqio.MixtureRegistry.names()
    }
    return {name: [name] for name in sorted(seqio.TaskRegistry.names())} | mixtures


def samples(
    provider: seqio.Task | seqio.Mixture, lengths: Mapping[str, int], split: str, seed: int = 0
) -> Iterator[Sample]:
    """The samples of one epoch, in the order and with the masks of a seed."""
    vocabulary = provider.output_features["inputs"].vocabulary
    for example in _examples(provider, mark_given(lengths), split, seed):
        targets = example["targets"]
        yield Sample(
            vocabulary.decode(example["inputs"].tolist()),
            vocabulary.decode(abs(targets).tolist()),
            vocabulary.decode((-targets[targets < 0]).tolist()),
            len(example["inputs"]),
            len(example["targets"]),
        )


def measure(
    provider: seqio.Task | seqio.Mixture, lengths: Mapping[str, int], split: str, seed: int = 0
) -> dict[str, Lengths]:
    """The lengths of inputs and targets over the first `MEASURED` samples of a seed; some exist."""
    whole = [
        (len(example["inputs"]), len(example["targets"]))
        for _, example in zip(range(MEASURED), _examples(provider, None, split, seed), strict=False)
    ]
    return {
        feature: Lengths(
            mean=float(np.mean(tokens)),
            p95=float(np.percentile(tokens, 95)),
            longest=max(tokens),
            limit=lengths[feature],
            shortened=float(np.mean(np.array(tokens) > lengths[feature])),
        )
        for feature, tokens in zip(("inputs", "targets"), zip(*whole, strict=True), strict=True)
    }


def _examples(provider, lengths: dict[str, int] | None, split: str, seed: int) -> Iterator[dict]:
    dataset = provider.get_dataset(
        lengths, split, shuffle=True, seed=seed, num_epochs=1, try_in_mem_cache=False
    )
    return dataset.as_numpy_iterator()
