"""What a page says of one run, gathered from its folder and, where it is there, its domain."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recalign import domains
from recalign.domains import Domain
from recalign.errors import UserError
from recalign.evaluation.outcomes import Outcomes
from recalign.evaluation.report import metrics_in
from recalign.files import resolve
from recalign.progress import track
from recalign.runs.details import read as read_details
from recalign.runs.directory import RunDirectory
from recalign.runs.inspection import Inspection, inspect, rows_by_task
from recalign.runs.report.events import Scalars, read_scalars

SPLITS = ("test", "validation")
MODEL = "recalign"
"""A run's own row among those of its tables."""

Rows = dict[str, dict[str, float | None]]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A run as the page shows it.

    Attributes:
      name: what tells it from the others on the page.
      found: what its folder holds.
      scalars: what training wrote for TensorBoard.
      details: by split, see `recalign.runs.details`.
      outcomes: by split, of the evaluation that is shown, see `recalign.evaluation.outcomes.read`.
      problems: what could not be read.
    """

    name: str
    found: Inspection
    scalars: Scalars
    details: dict[str, dict[str, Any]]
    outcomes: dict[str, Mapping[str, tuple[str, Outcomes]]]
    problems: list[str]

    def curve(self, tag: str) -> dict[int, float]:
        """A scalar of training by step."""
        return self.scalars.get(tag, {})

    def validation_curves(self) -> dict[str, dict[int, float]]:
        """The metrics of validation by step, under `<task>/<protocol>/<metric>`."""
        curves: dict[str, dict[int, float]] = {}
        for record in self.found.evaluations("validation"):
            for name, value in record.items():
                task, _, rest = name.partition("/")
                metric = rest.partition("/")[2]
                if metric.count("/") == 1 and isinstance(value, float | int):
                    curves.setdefault(f"{task}/{metric}", {})[record["step"]] = value
        return curves

    def tables(self) -> Iterator[tuple[str, str, int | None, int | None, Rows]]:
        """The task, split, limit, step and rows of each evaluation shown, see `_step_shown`.

        The limit is EVAL_EXAMPLES; None where all examples were taken.
        """
        for split in SPLITS:
            limit, step, tasks = self._evaluation(split)
            for task, rows in tasks.items():
                yield task, split, limit, step, rows

    def _evaluation(self, split: str) -> tuple[int | None, int | None, dict[str, Rows]]:
        """With baselines where there are details of it, which are of all examples.

        Training leaves none of validation.
        """
        step, details = _step_shown(self.found, split), self.details.get(split)
        if details and (step is None or details["step"] == step):
            return None, details["step"], details["tables"]
        records = (r for r in self.found.evaluations(split) if r["step"] == step)
        found = {name: v for r in records for name, v in metrics_in(r).items()}
        limit = self.found.macros.get("EVAL_EXAMPLES") if split == "validation" else None
        return limit, step, rows_by_task(found)

    def domain_of(self, task: str) -> str | None:
        """The name of the domain that a task is of, by which its tasks are called."""
        names = [name.removeprefix("domain ") for name in self.found.provenance]
        named = [name for name in names if task.startswith(f"{name}_")]
        return max(named, key=len, default=None)

    def fingerprint(self, task: str) -> str:
        """The content hash of a task's domain; "" where it is not known."""
        known = self.found.provenance.get(f"domain {self.domain_of(task)}", "")
        return known.removeprefix("content ")

    def domain(self, task: str) -> Domain | None:
        """The domain of a task, if the very one that was trained on is there."""
        name, wanted = self.domain_of(task), self.fingerprint(task)
        folder = self.found.macros.get("TOKENS_DIR")
        folder = str(Path(folder) / "domains") if isinstance(folder, str) else None
        return _load(name, folder, wanted) if name and wanted else None


def _load(name: str, folder: str | None, wanted: str) -> Domain | None:
    try:
        same = domains.fingerprint(name, folder) == wanted
        return domains.load(name, folder) if same else None
    except UserError:
        return None


def gather(paths: Sequence[Path]) -> list[Subject]:
    """What there is of each run.

    Raises:
      UserError: a folder holds no run.
    """
    named = zip(paths, _names(paths), strict=True)
    return [_gather(path, name) for path, name in track([*named], "reading", "run")]


def _gather(path: Path, name: str) -> Subject:
    found = inspect(path)
    details, problems = {}, list(found.problems)
    for split in SPLITS:
        try:
            if told := read_details(path, split):
                details[split] = told
        except UserError as error:
            problems.append(str(error))
    directory = RunDirectory(path)
    outcomes: dict[str, Mapping[str, tuple[str, Outcomes]]] = {}
    for split in SPLITS:
        step = _step_shown(found, split)
        try:
            if step is not None and step in directory.steps_with_outcomes(split):
                outcomes[split] = directory.outcomes(step, split)
        except UserError as error:
            problems.append(str(error))
    return Subject(name, found, read_scalars(path), details, outcomes, problems)


def _step_shown(found: Inspection, split: str) -> int | None:
    """Of validation the best one, which is the one that counts; of test the last one asked for."""
    steps = [record["step"] for record in found.evaluations(split)]
    if split == "validation" and found.best_step in steps:
        return found.best_step
    return steps[-1] if steps else None


def _names(paths: Sequence[Path]) -> list[str]:
    """The paths without what all of them begin with."""
    parts = [resolve(path).parts for path in paths]
    shared = 0
    while len({part[: shared + 1] for part in parts}) == 1 and shared < min(map(len, parts)) - 1:
        shared += 1
    return ["/".join(part[shared:]) for part in parts]
