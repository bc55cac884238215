"""What a run is, from the files in its folder alone: nothing that trains is imported.

Nothing in the folder is ever written, and what is broken there is told beside what is whole.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from recalign.engine.weights.manifest import find_damage
from recalign.errors import UserError
from recalign.evaluation import report
from recalign.files import list_files, resolve
from recalign.progress import duration, readable, track
from recalign.runs import calls, configuration
from recalign.runs.directory import CONFIG, HISTORY, METRICS, RunDirectory
from recalign.runs.lock import find_holder
from recalign.runs.result import Result, read

_PROVENANCE = Path("provenance", "metadata")  # in a checkpoint, as JSON
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a run.

    Attributes:
      step: of training.
      size: bytes.
      damage: what is wrong with it; None if nothing is.
    """

    step: int
    size: int
    damage: str | None


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What there is in the folder of a run.

    Attributes:
      path: the folder.
      macros: those of its config.gin, "TRAIN_STEPS" and the like, by name.
      calls: see `recalign.runs.calls`.
      history: its evaluations, see `report.read_metrics`.
      metrics: the last one, `<task>/<split>/<protocol>/<metric>`.
      result: of a run that came to its end.
      checkpoints: by step.
      provenance: what its parameters belong to: "vocabulary", "domain NAME" and their fingerprints.
      best_step: the best on validation by BEST_METRIC, if there is one.
      seconds: of training, up to the last step that is known of.
      holder: the process that trains in it now, if one does.
      problems: what is broken, each with what to do.
    """

    path: Path
    macros: Mapping[str, Any]
    calls: list[dict]
    history: list[dict]
    metrics: dict[str, float | None]
    result: Result | None
    checkpoints: list[Checkpoint]
    provenance: dict[str, str]
    best_step: int | None
    seconds: float
    holder: str | None
    problems: list[str]

    @property
    def step(self) -> int:
        """The last one that is known of."""
        seen = [c.step for c in self.checkpoints], [record["step"] for record in self.history]
        return max([*seen[0], *seen[1]], default=0)

    @property
    def command(self) -> str | None:
        """That of the last call."""
        return self.calls[-1]["command"] if self.calls else None

    @property
    def origin(self) -> str | None:
        """The version and commit of recalign that it was last trained with."""
        if self.calls:
            version, commit = self.calls[-1]["version"], self.calls[-1].get("commit")
        elif self.result:
            version, commit = self.result.version, self.result.commit
        else:
            return None
        return version + (f", commit {commit}" if commit else "")

    @property
    def state(self) -> str:
        """How far it came: "ended", "in training", or what else."""
        if self.holder:
            return f"in training by {self.holder}"
        if self.result and self.result.last_step == self.step:
            return "ended"
        begun = self.calls or self.checkpoints or self.history
        return "stopped before its end" if begun else "not begun"

    def evaluations(self, split: str) -> list[dict]:
        """Those of a split, of validation as training makes them; see `report.comparable`."""
        return report.comparable(self.history, split, self.macros.get("EVAL_EXAMPLES"))

    def tables(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """The last metrics as rows of each task, see `report.format_report`."""
        return rows_by_task(self.metrics)

    def __str__(self):
        config = self.macros
        trained_on = [
            str(config.get("MIXTURE_OR_TASK_NAME") or config.get("TOKENS_DIR") or "unknown"),
            f"batches of {config.get('BATCH_SIZE')}, seed {config.get('RANDOM_SEED')}",
            f"from {config.get('INITIAL_CHECKPOINT_PATH') or 'scratch'}",
        ]
        best = f"step {self.best_step} by {config.get('BEST_METRIC')}, on validation"
        sizes = [
            f"{c.step} ({readable(c.size)}{', damaged: ' + c.damage if c.damage else ''})"
            for c in self.checkpoints
        ]
        lines = {
            "recipe": ", ".join(trained_on),
            "command": self.command or "unknown",
            "recalign": self.origin or "unknown",
            **dict(sorted(self.provenance.items())),
            "steps": f"{self.step} of {config.get('TRAIN_STEPS', '?')} in {duration(self.seconds)}",
            "best": best if self.best_step is not None else "no evaluation tells",
            "checkpoints": ", ".join(sizes) or "none",
            "state": self.state,
            "whole": "yes" if not self.problems else "no: " + "; ".join(self.problems),
        }
        width = max(map(len, lines))
        text = [f"{name:{width}}  {value}" for name, value in lines.items()]
        last = [r for r in self.history if {*self.metrics} == report.metrics_in(r).keys()]
        where = f"{last[-1]['split']}, step {last[-1]['step']}\n\n" if last else ""
        tables = where + report.format_report(self.tables()) if self.metrics else "no metrics yet"
        return "\n".join([str(self.path), *text, "", tables])


def rows_by_task(
    metrics: Mapping[str, float | None],
) -> dict[str, dict[str, dict[str, float | None]]]:
    """`<task>/<split>/<protocol>/<metric>` of one split as the run's row of each task."""
    tables: dict[str, dict[str, dict[str, float | None]]] = {}
    for name, value in metrics.items():
        task, _, rest = name.partition("/")
        row = tables.setdefault(task, {"recalign": {}})["recalign"]
        row[rest.partition("/")[2]] = value
    return tables


def inspect(path: Path, hashes: bool = False) -> Inspection:
    """Looks at the folder of a run.

    Args:
      path: the folder.
      hashes: compares the contents of checkpoints with their manifests too, and not only sizes.

    Raises:
      UserError: it holds no run.
    """
    if not (path / CONFIG).is_file():
        raise UserError(f"{path} holds no run: there is no {path / CONFIG}")
    problems: list[str] = []

    def try_to_read(read: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return read()
        except UserError as error:
            problems.append(str(error))
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: {error}")
        return otherwise

    config: dict[str, Any] = try_to_read(
        lambda: configuration.bindings(configuration.read(path / CONFIG), str(path / CONFIG)), {}
    )
    macros = {name: value for name, value in config.items() if "." not in name}
    directory = RunDirectory(path, macros.get("EVAL_EXAMPLES"))
    history: list[dict] = try_to_read(lambda: _history(path / HISTORY), [])
    holder = find_holder(path)
    if holder is None and not try_to_read(lambda: report.is_whole(path / HISTORY), True):
        problems.append(
            f"{path / HISTORY} ends within a line, which is passed over: the evaluation that it "
            "was to tell is made again once the run goes on, or by `recalign eval`"
        )
    known: list[dict] = try_to_read(lambda: calls.read(path), [])
    folders = [path / "checkpoints" / str(step) for step in directory.checkpoints()]
    shown = track(folders, "reading checkpoints", "checkpoint", shown=hashes)
    checkpoints = [found for folder in shown if (found := _checkpoint(folder, hashes))]
    problems += [f"checkpoint {c.step} is damaged: {c.damage}" for c in checkpoints if c.damage]
    last = max([*(c.step for c in checkpoints), *(r["step"] for r in history)], default=0)
    seconds = try_to_read(lambda: directory.seconds(last), 0.0)
    return Inspection(
        path=path,
        macros=macros,
        calls=known,
        history=history,
        metrics=try_to_read(lambda: _metrics(path / METRICS), {}),
        result=try_to_read(lambda: read(path), None),
        checkpoints=checkpoints,
        provenance=_provenance(path / "checkpoints", checkpoints)
        or (known[-1]["provenance"] if known else {}),
        best_step=directory.best_step(macros.get("BEST_METRIC")) if history else None,
        seconds=seconds,
        holder=holder,
        problems=problems,
    )


def _history(path: Path) -> list[dict]:
    """The evaluations; lines that are none are told."""
    records = report.read_metrics(path) if path.exists() else []
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict) or not _is_evaluation(**record):
            raise UserError(f"{path}, line {number}: no evaluation; remove or repair the line")
    return records


def _is_evaluation(step: Any = None, split: Any = None, limit: Any = None, **metrics: Any) -> bool:
    head = isinstance(step, int) and isinstance(split, str) and isinstance(limit, int | None)
    return head and _are_metrics(metrics)


def _are_metrics(found: Any) -> bool:
    """Whether it is an object `<task>/<split>/<protocol>/<metric>` of numbers and null."""
    return isinstance(found, dict) and all(
        name.count("/") >= 3 and isinstance(value, float | int | None)
        for name, value in found.items()
    )


def _metrics(path: Path) -> dict[str, float | None]:
    if not path.exists():
        return {}
    advice = "evaluate the run again (`recalign eval`), which writes it anew"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); {advice}") from error
    if not _are_metrics(found):
        raise UserError(f"{path}: no metrics of a run; {advice}")
    return found


def _checkpoint(folder: Path, hashes: bool) -> Checkpoint | None:
    """None for one that training has removed meanwhile."""
    size = 0
    try:
        size = sum(list_files(folder).values())
        damage = find_damage(resolve(folder), hashes=hashes)
    except OSError as error:
        damage = str(error)
    return Checkpoint(int(folder.name), size, damage) if folder.exists() else None


def _provenance(folder: Path, checkpoints: list[Checkpoint]) -> dict[str, str]:
    """What the newest checkpoint that tells says."""
    for checkpoint in reversed(checkpoints):
        try:
            found = json.loads(
                (folder / str(checkpoint.step) / _PROVENANCE).read_text(encoding="utf-8")
            )
            return {name: str(fingerprint) for name, fingerprint in found.items()}
        except (OSError, ValueError, AttributeError):
            continue
    return {}
