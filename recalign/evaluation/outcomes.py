"""What each example came to: of that are means, their intervals, and differences between models.

An evaluation of a run is kept in its folder as `outcomes/<split>-<step>.npz` (`…-all.npz` of all of
validation, where training takes a part), which `write` writes and `read` reads: numpy's format,
without pickles. Of every task it holds, example by example in the order of the split (of
`Domain.split`; ratings by user and item):

* `<task>/domain`: str, the domain's name and content hash. Two files with the same one can be
  compared example by example; of ranks, one file may have the first of them alone.
* `<task>/users`: int32[m], whose example it is.
* `<task>/<protocol>/ranks`: int32[m], for `full`, `full_unseen` and `cand<C>`: the rank of the
  target, 1 = first, 0 = not in the list; `hr@k` is the mean of 1 ≤ rank ≤ k.
* `<task>/<protocol>/depth`: int32, how long the lists are. Nothing is known of a k beyond it.
* `<task>/<protocol>/errors`: float64[m], for `rating` and `rating_expected`: the predicted rating
  less the true one.
"""

import dataclasses
import io
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from recalign.errors import UserError
from recalign.evaluation import metrics
from recalign.evaluation.intervals import ENDS, intervals, name_end, resampled_means
from recalign.files import make_folder, replacing


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Where the targets stood.

    Attributes:
      users: int[m], whose examples they are, each at most once.
      ranks: int[m], 1 = first, 0 = not in the list.
      depth: how long the lists are.
    """

    users: np.ndarray
    ranks: np.ndarray
    depth: int

    def names(self) -> list[str]:
        """The metrics that are means over users."""
        return list(self._values())

    def sums(self) -> np.ndarray:
        """What there is of each user, float64[u, q], whose mean over users `combine` takes."""
        return np.stack([*self._values().values()], axis=1)

    def combine(self, means: np.ndarray) -> np.ndarray:
        """The metrics float64[r, len(names())] of r means float64[r, q]."""
        return means

    def _values(self) -> dict[str, np.ndarray]:
        return metrics.rank_values(np.where(self.ranks > 0, self.ranks, np.inf), self.depth)


@dataclasses.dataclass(frozen=True)
class Errors:
    """How far ratings were off.

    Attributes:
      users: int[m], whose ratings they are, ascending; a user may have several.
      errors: float64[m], predicted less true.
    """

    users: np.ndarray
    errors: np.ndarray

    def names(self) -> list[str]:
        """See `Ranks`."""
        return ["rmse", "mae"]

    def sums(self) -> np.ndarray:
        """See `Ranks`: squared errors, absolute ones, and how many; users are resampled whole."""
        _, user = np.unique(self.users, return_inverse=True)
        of_each = (self.errors**2, np.abs(self.errors), np.ones(len(self.errors)))
        return np.stack([np.bincount(user, values) for values in of_each], axis=1)

    def combine(self, means: np.ndarray) -> np.ndarray:
        """See `Ranks`."""
        squared, absolute = means[:, 0] / means[:, 2], means[:, 1] / means[:, 2]
        return np.stack([np.sqrt(squared), absolute], axis=1)


Outcomes = Mapping[str, Ranks | Errors]
"""By protocol."""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A model on the examples of a task.

    Attributes:
      metrics: every `<protocol>/<metric>`.
      outcomes: what they are means of, by protocol; rates of lists have none.
    """

    metrics: dict[str, float]
    outcomes: Outcomes

    def __or__(self, other: "Evaluated") -> "Evaluated":
        return Evaluated(self.metrics | other.metrics, {**self.outcomes, **other.outcomes})


def evaluate_lists(
    ranked: np.ndarray, targets: np.ndarray, num_items: int, protocol: str, users: np.ndarray
) -> Evaluated:
    """Evaluates lists of the catalogue, see `metrics.full_ranking`; users int[m], each once."""
    found = metrics.full_ranking(ranked, targets, num_items, protocol)
    ranks = metrics.target_ranks(ranked, targets)
    ranks = np.where(np.isfinite(ranks), ranks, 0).astype(np.int32)
    return Evaluated(found, {protocol: Ranks(users, ranks, ranked.shape[1])})


def evaluate_candidates(
    scores: np.ndarray, positives: np.ndarray | int, users: np.ndarray
) -> Evaluated:
    """Evaluates scores of candidates, see `metrics.candidate_ranking`; users int[m], each once."""
    found = metrics.candidate_ranking(scores, positives)
    ranks = metrics.candidate_ranks(scores, positives).astype(np.int32)
    return Evaluated(found, {f"cand{scores.shape[1]}": Ranks(users, ranks, scores.shape[1])})


def evaluate_ratings(
    predictions: np.ndarray, ratings: np.ndarray, fallback: float, users: np.ndarray
) -> Evaluated:
    """Evaluates predicted ratings, see `metrics.rating`; users int[m], ascending."""
    found = metrics.rating(predictions, ratings, fallback)
    return Evaluated(
        found, {"rating": Errors(users, metrics.rating_errors(predictions, ratings, fallback))}
    )


def as_expected(evaluated: Evaluated) -> Evaluated:
    """Predictions under the names that those of an expectation have, see `metrics.as_expected`."""
    return Evaluated(
        metrics.as_expected(evaluated.metrics), {"rating_expected": evaluated.outcomes["rating"]}
    )


def summarise(seeds: Sequence[Evaluated]) -> dict[str, float]:
    """A row of a report: metrics that all have, means over seeds, and ends of 95 % intervals.

    The intervals are of the users: what else they might have been, the models being these.

    Args:
      seeds: one model, or one trained with several seeds, on the same examples.

    Returns:
      `<protocol>/<metric>`, and for what is a mean over users also `<protocol>/low/<metric>` and
      `<protocol>/high/<metric>`.
    """
    first, *_ = seeds
    names = [name for name in first.metrics if all(name in each.metrics for each in seeds)]
    row = {name: float(np.mean([each.metrics[name] for each in seeds])) for name in names}
    for protocol, (names, _, ends) in _estimates([each.outcomes for each in seeds], []).items():
        row |= _ends(protocol, names, ends, row)
    return row


def subtract(one: Sequence[Evaluated], other: Sequence[Outcomes]) -> dict[str, float]:
    """A row of paired differences: of the same users, whatever makes both worse falls out.

    Args:
      one: a model by seeds, as in `summarise`.
      other: what another model came to on the same examples, or on the first of them, by seeds.

    Returns:
      As `summarise`, of the protocols that both have.

    Raises:
      UserError: the examples are not those of the same users.
    """
    return _make_row([each.outcomes for each in one], other, one[0].metrics)


def estimate(outcomes: Outcomes, other: Sequence[Outcomes] = ()) -> dict[str, float]:
    """As `summarise`, or with another model's as `subtract`, of what was kept of evaluations."""
    return _make_row([outcomes], other)


def _make_row(
    plus: Sequence[Outcomes], minus: Sequence[Outcomes], shown: Collection[str] | None = None
) -> dict[str, float]:
    """The metrics of `_estimates`, all or those that are shown, with the ends of intervals."""
    row: dict[str, float] = {}
    for protocol, (names, values, ends) in _estimates(plus, minus).items():
        found = {f"{protocol}/{name}": float(v) for name, v in zip(names, values, strict=True)}
        row |= {name: v for name, v in found.items() if shown is None or name in shown}
        row |= _ends(protocol, names, ends, row)
    return row


def _ends(
    protocol: str, names: Sequence[str], ends: np.ndarray, row: Mapping[str, float]
) -> dict[str, float]:
    return {
        name_end(f"{protocol}/{name}", end): float(value)
        for name, pair in zip(names, ends, strict=True)
        for end, value in zip(ENDS, pair, strict=True)
        if f"{protocol}/{name}" in row
    }


def _estimates(
    plus: Sequence[Outcomes], minus: Sequence[Outcomes]
) -> dict[str, tuple[list[str], np.ndarray, np.ndarray]]:
    """The metrics of a protocol, their values float64[q] and intervals float64[q, 2], by protocol.

    Values are means over `plus`, less means over `minus` if there are any.
    """
    found = {}
    every = (*plus, *minus)
    weights = [1 / len(plus)] * len(plus) + [-1 / max(1, len(minus))] * len(minus)
    for protocol in [name for name in plus[0] if all(name in each for each in every)]:
        parts = _align(protocol, [each[protocol] for each in every])
        names = min((part.names() for part in parts), key=len)  # those of the shortest lists
        sums = [part.sums() for part in parts]
        together = np.concatenate(sums, axis=1)  # resampled together, which makes them paired
        cuts = np.cumsum([each.shape[1] for each in sums])[:-1]

        def combine(means, parts=parts, names=names, cuts=cuts) -> np.ndarray:
            """Means float64[r, …] of all parts' sums → the metrics float64[r, len(names)]."""
            total = np.zeros((len(means), len(names)))
            for part, weight, own in zip(parts, weights, np.split(means, cuts, 1), strict=True):
                columns = [part.names().index(name) for name in names]
                total += weight * part.combine(own)[:, columns]
            return total

        [values] = combine(together.mean(axis=0)[None])
        found[protocol] = names, values, intervals(combine(resampled_means(together)))
    return found


def _align(protocol: str, parts: Sequence[Ranks | Errors]) -> list[Ranks | Errors]:
    """The examples that all have: the first ranks of each, or all errors.

    Raises:
      UserError: they are not those of the same users.
    """
    shortest = min(len(part.users) for part in parts)
    cut = [
        Ranks(part.users[:shortest], part.ranks[:shortest], part.depth)
        if isinstance(part, Ranks)
        else part
        for part in parts
    ]
    if not all(np.array_equal(part.users, cut[0].users) for part in cut):
        raise UserError(f"{protocol}: the examples are not those of the same users")
    return cut


def write(path: Path, tasks: Mapping[str, tuple[str, Outcomes]]) -> None:
    """Writes the file that the module describes, whole or not at all.

    Args:
      path: the file; its folder is made if absent.
      tasks: of each task its domain, name and content hash, and what its examples came to.
    """
    arrays = {}
    for task, (domain, outcomes) in tasks.items():
        arrays[f"{task}/domain"] = np.array(domain)
        for protocol, part in outcomes.items():
            arrays[f"{task}/users"] = np.asarray(part.users, np.int32)
            if isinstance(part, Ranks):
                arrays[f"{task}/{protocol}/ranks"] = np.asarray(part.ranks, np.int32)
                arrays[f"{task}/{protocol}/depth"] = np.array(part.depth, np.int32)
            else:
                arrays[f"{task}/{protocol}/errors"] = np.asarray(part.errors, np.float64)
    make_folder(path.parent)
    with replacing(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read(path: Path) -> dict[str, tuple[str, dict[str, Ranks | Errors]]]:
    """Reads what `write` wrote.

    Raises:
      UserError: it cannot be read.
    """
    found: dict[str, tuple[str, dict[str, Ranks | Errors]]] = {}
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored}
        for name, array in arrays.items():
            task, *rest = name.split("/")
            _, outcomes = found.setdefault(task, (str(arrays[f"{task}/domain"]), {}))
            users = arrays[f"{task}/users"]
            match rest:
                case [protocol, "ranks"]:
                    depth = int(arrays[f"{task}/{protocol}/depth"])
                    outcomes[protocol] = Ranks(users, array, depth)
                case [protocol, "errors"]:
                    outcomes[protocol] = Errors(users, array)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no outcomes ({error}): remove it, evaluate again") from error
    return found
