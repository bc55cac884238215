"""What is asked of a model: the examples of a task and split, with what they are judged by."""

import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from recalign.domains import Domain


class Asked(NamedTuple):
    """Questions; `inputs` and `given` as in `Examples`."""

    inputs: Sequence[np.ndarray]
    given: Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of one task and split; `len()` is their number m.

    Attributes:
      task: the SeqIO task.
      split: "validation" or "test".
      domain: which they come from.
      inputs: int32[tokens] an example, the question with EOS, without padding.
      given: int32[tokens] an example, what its answer begins with; () if nothing in any.
    """

    task: str
    split: str
    domain: Domain
    inputs: Sequence[np.ndarray]
    given: Sequence[np.ndarray] = dataclasses.field(default=(), kw_only=True)

    def __len__(self) -> int:
        return len(self.inputs)


@dataclasses.dataclass(frozen=True)
class RetrievalExamples(Examples):
    """Rank the catalogue for each history, to find the next item.

    Attributes:
      offsets: int64[m + 1]; example e's whole history is `events[offsets[e]:offsets[e + 1]]`.
      events: int32[n], item indices, oldest first.
      targets: int32[m], the item to find.
    """

    offsets: np.ndarray
    events: np.ndarray
    targets: np.ndarray

    @property
    def histories(self) -> list[np.ndarray]:
        """The whole history of each example, int32[items]."""
        return np.split(self.events, self.offsets[1:-1])[: len(self)]

    @property
    def users(self) -> np.ndarray:
        """int32[m], whose histories they are: examples are the first ones of the domain's split."""
        return self.domain.split(self.split).users[: len(self)]


@dataclasses.dataclass(frozen=True)
class RankingExamples(RetrievalExamples):
    """Rank a few candidates for each history, to find the next item.

    Attributes:
      candidates: int32[m, C], item indices, the target among them.
    """

    candidates: np.ndarray

    @property
    def positives(self) -> np.ndarray:
        """int64[m], the column of the target."""
        return (self.candidates == self.targets[:, None]).argmax(axis=1)


@dataclasses.dataclass(frozen=True)
class RatingExamples(Examples):
    """Tell how a user rates an item.

    Attributes:
      users: int32[m], user indices, ascending.
      items: int32[m], item indices, each at most once a user.
      ratings: float32[m], the true ones.
      values: float[s], every rating there is in train, ascending.
      stars: int32[tokens] a value, how the model must write it, EOS included.
    """

    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray
    values: np.ndarray
    stars: Sequence[np.ndarray]


KINDS = {kind.__name__: kind for kind in (RetrievalExamples, RankingExamples, RatingExamples)}
Some = TypeVar("Some", bound=Examples)

_NAMES = ("task", "split")
_OF_ALL = ("domain", "values", "stars")  # not of one example each
_ENDS = ".ends"
_HISTORIES = "histories"  # of `offsets` and `events`


def save(examples: Examples, file: Path | BinaryIO) -> None:
    """Writes examples as an .npz file, all but their domain, of which the name."""
    arrays: dict[str, Any] = {"kind": type(examples).__name__, "domain": examples.domain.name}
    for field in dataclasses.fields(examples):
        value = getattr(examples, field.name)
        if field.name in _NAMES or isinstance(value, np.ndarray):
            arrays[field.name] = value
        elif field.name not in arrays:
            arrays[field.name] = np.concatenate([np.zeros(0, np.int32), *value])
            arrays[field.name + _ENDS] = np.cumsum([len(row) for row in value], dtype=np.int64)
    np.savez(file, **arrays)


def load(file: Path | BinaryIO, domain: Callable[[str], Domain]) -> Examples:
    """Reads what `save` wrote; `domain` gives the domain of a name."""
    with np.load(file, allow_pickle=False) as stored:
        kind = KINDS[str(stored["kind"])]
        names = [field.name for field in dataclasses.fields(kind)]
        values = {name: stored[name] for name in names if name in stored}  # once none was given
        for name in values:
            if name + _ENDS in stored:
                ends = stored[name + _ENDS]
                values[name] = np.split(values[name], ends[:-1]) if len(ends) else []
    for name in _NAMES:
        values[name] = str(values[name])
    values["domain"] = domain(str(values["domain"]))
    return kind(**values)


def first(examples: Examples, number: int) -> Examples:
    """The first so many examples, or all where there are fewer."""
    return examples if number >= len(examples) else select(examples, np.arange(number))


def select(examples: Some, rows: np.ndarray) -> Some:
    """The examples of some rows int[k], in their order."""
    return _replace_rows(
        examples,
        {
            name: values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]
            for name, values in _rows(examples).items()
        },
    )


@dataclasses.dataclass(frozen=True)
class Share:
    """What one of several processes makes of the examples that all of them need.

    Example e is made by process e modulo `count`; so all have as many to make, whatever they hold.

    Attributes:
      index: which process, from 0.
      count: how many there are.
      exchange: told by every process what it has made, gives that of all, in their order.
    """

    index: int = 0
    count: int = 1
    exchange: Callable[[bytes], Sequence[bytes]] = lambda made: [made]

    def complete(self, made: Examples) -> Examples:
        """All examples, in their order, where each process calls it with those that it made."""
        if self.count == 1:
            return made
        file = io.BytesIO()
        save(made, file)
        parts = [
            load(io.BytesIO(part), lambda _: made.domain) for part in self.exchange(file.getvalue())
        ]
        places = np.concatenate([p + self.count * np.arange(len(e)) for p, e in enumerate(parts)])
        rows = [_rows(part) for part in parts if len(part)] or [{}]
        joined = {name: _join([row[name] for row in rows]) for name in rows[0]}
        return select(_replace_rows(made, joined), np.argsort(places))


ALONE = Share()


def _rows(examples: Examples) -> dict[str, Any]:
    """Every field that has a row for each example, histories among them."""
    beside = (*_NAMES, *_OF_ALL, "offsets", "events")
    found = {
        field.name: getattr(examples, field.name)
        for field in dataclasses.fields(examples)
        if field.name not in beside
    }
    if isinstance(examples, RetrievalExamples):
        found[_HISTORIES] = examples.histories
    return {name: values for name, values in found.items() if len(values)}  # `given` may be ()


def _join(parts: Sequence[Any]) -> Any:
    """One after the other: arrays as an array, lists as a list."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return [row for part in parts for row in part]


def _replace_rows(examples: Some, rows: dict[str, Any]) -> Some:
    """The examples with other rows in the fields that `_rows` gives."""
    changed = dict(rows)
    if _HISTORIES in changed:
        histories = changed.pop(_HISTORIES)
        changed["offsets"] = np.cumsum([0, *map(len, histories)], dtype=np.int64)
        changed["events"] = np.concatenate([np.zeros(0, np.int32), *histories])
    return dataclasses.replace(examples, **changed)
