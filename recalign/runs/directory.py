"""The folder of a run: one process at a time, one configuration, and what was measured when."""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from recalign.domains import storage
from recalign.engine.weights.manifest import list_steps
from recalign.errors import UserError
from recalign.evaluation import report
from recalign.files import changing, in_bucket, locate, write_text
from recalign.runs import configuration
from recalign.runs.result import read

if TYPE_CHECKING:
    from recalign.evaluation.outcomes import Outcomes

CONFIG = "config.gin"
METRICS, HISTORY, SECONDS = "metrics.json", "metrics.jsonl", "seconds.json"
OUTCOMES = "outcomes"

# A run and what it reads may move, and a run may be told to train longer: that changes nothing that
# it has done. What is read is known by its fingerprints.
HOW_LONG = ("TRAIN_STEPS", "PATIENCE")
FREE = ("MODEL_DIR", "TOKENS_DIR", *HOW_LONG)
LOWER_IS_BETTER = ("rmse", "mae", "invalid_rate", "duplicate_rate")


class RunDirectory:
    """What a run keeps beside its checkpoints, on local disk or in a bucket (gs://…).

    config.gin, metrics.json, metrics.jsonl; outcomes/, see `recalign.evaluation.outcomes`;
    seconds.json (how long it took to each checkpoint, over all calls); calls.jsonl, see
    `recalign.runs.calls`; details-SPLIT.json, see `recalign.runs.details`; result.json, see
    `recalign.runs.result`.

    Args:
      path: the folder.
      eval_examples: EVAL_EXAMPLES of the run. Evaluations on other numbers of examples of
        validation are recorded beside those on so many, and choose nothing.
    """

    def __init__(self, path: str | os.PathLike, eval_examples: int | None = None):
        self.path = locate(path)
        self.eval_examples = eval_examples

    def check_config(self, text: str) -> None:
        """Refuses a configuration that is not the one that this run began with.

        Args:
          text: as `configuration.operative` gives it.

        Raises:
          UserError: it differs in more than `FREE`; the lines that differ are shown.
        """
        path = self.path / CONFIG
        if not path.exists():
            return
        changed = configuration.differences(configuration.read(path), text, FREE, str(path))
        if changed:
            raise UserError(
                f"{path} says that this run was begun with another configuration:\n"
                + "\n".join(f"  {line}" for line in changed)
                + "\nName another MODEL_DIR (of ablations another --output), or go on here with "
                "`recalign train … --accept_changes`"
            )

    def check_writable(self) -> None:
        """Refuses, before any work, what cannot be recorded; a bucket is tried at the end.

        Raises:
          UserError: nothing can be written to the folder.
        """
        if not in_bucket(self.path) and not os.access(self.path, os.W_OK):
            raise UserError(
                f"{self.path} cannot be written to, and its metrics.json and metrics.jsonl receive "
                "what is measured: evaluate a copy of the run"
            )

    def check_own(self) -> None:
        """Refuses to begin in a domain's folder, which goes when the domain is prepared again.

        Raises:
          UserError: there is a prepared domain, and no run in it yet.
        """
        if in_bucket(self.path) or (self.path / CONFIG).exists():
            return
        if storage.read_statistics(self.path):
            raise UserError(
                f"MODEL_DIR is {self.path}, which holds a prepared domain: name a folder of its own"
            )

    def check_resumable(self) -> None:
        """Refuses to begin anew what has come to a step, before any work.

        Raises:
          UserError: no checkpoint is left of it, or what it left cannot be read.
        """
        seconds, result = self._seconds(), read(self.path)
        if self.checkpoints():
            return
        folder = self.path / "checkpoints"
        reached = result.last_step if result else 0
        # One that was killed amid its first checkpoint has left the folder; a bucket has none.
        if not in_bucket(folder) and not folder.exists():
            reached = max(reached, *map(int, seconds), 0)
        if reached:
            raise UserError(
                f"the run in {self.path} came to step {reached}, and {folder} holds no checkpoint "
                "to go on from: copy them back, or name another MODEL_DIR to begin anew"
            )

    def write_config(self, text: str) -> None:
        """Writes config.gin."""
        write_text(self.path / CONFIG, text)

    def record(
        self,
        step: int,
        split: str,
        metrics: Mapping[str, float],
        tasks: "Mapping[str, tuple[str, Outcomes]] | None" = None,
        limit: int | None = None,
    ) -> None:
        """Adds an evaluation to metrics.jsonl and makes it metrics.json.

        Args:
          step: of the checkpoint.
          split: "validation" or "test".
          metrics: `<task>/<split>/<protocol>/<metric>` and the ends of their intervals.
          tasks: what its examples came to, as `recalign.evaluation.outcomes.write` takes it.
          limit: EVAL_EXAMPLES if no task had more; None where all examples were taken.
        """
        if tasks:
            from recalign.evaluation import outcomes

            all_of_few = split == "validation" and limit != self.eval_examples
            outcomes.write(self._outcomes(step, split, all_of_few), tasks)
        report.append_metrics(self.path / HISTORY, step, split, metrics, limit)
        report.write_metrics(self.path / METRICS, metrics)

    def is_evaluated(self, step: int, tasks: Collection[str]) -> bool:
        """Whether the evaluation of a step on validation is recorded, of all these tasks."""
        known = {name.partition("/")[0] for name in self.metrics_of(step, "validation")}
        return known.issuperset(tasks)

    def best_step(self, metric: str | None, among: Collection[int] | None = None) -> int | None:
        """The step that is best on validation.

        Args:
          metric: the full name, `<task>/validation/<protocol>/<metric>`, or `<protocol>/<metric>`,
            of which the mean over the tasks that have it counts (a mixture may have several
            domains).
          among: these steps alone.

        Returns:
          Of equal ones the first; None where no evaluation has the metric.
        """
        values = self._values(metric)
        steps = [step for step in sorted(values) if among is None or step in among]
        best = min if metric and metric.endswith(LOWER_IS_BETTER) else max
        return best(steps, key=values.__getitem__) if steps else None

    def is_missed(self, metric: str, tasks: Collection[str]) -> bool:
        """Whether validation has shown that a metric is not measured.

        Args:
          metric: as for `best_step`.
          tasks: all that are evaluated, some of them perhaps less often. One that has not been so
            far may have the metric, unless its protocol is that of one that was.
        """
        measured = self.measured()
        protocols = {name.rpartition("/")[0] for name in measured}
        evaluated = {name.partition("/")[0] for name in measured}
        task, *rest = metric.split("/")
        named = tasks if len(rest) < 2 else {task}.intersection(tasks)
        is_known = metric.rpartition("/")[0] in protocols or evaluated.issuperset(named)
        return is_known and metric not in measured

    def measured(self) -> set[str]:
        """The metrics that validation has had, by the names that `best_step` takes."""
        records = [record for record in self._history() if record["split"] == "validation"]
        full = {name for record in records for name in report.metrics_in(record)}
        return full | {name.split("/", 2)[-1] for name in full}

    def evaluations_since_best(self, metric: str | None) -> int:
        """How many evaluations on validation have not improved on the best one."""
        best = self.best_step(metric)
        return sum(step > best for step in self._values(metric)) if best is not None else 0

    def _values(self, metric: str | None) -> dict[int, float]:
        """What `best_step` compares, by step; what is no number is none of it."""
        values = {}
        for record in self._evaluations("validation"):
            found = [v for name, v in record.items() if metric in (name, name.split("/", 2)[-1])]
            if found and None not in found:
                values[record["step"]] = sum(found) / len(found)
        return values

    def metrics_of(self, step: int | None, split: str) -> dict[str, float | None]:
        """What an evaluation found; nothing where there was none."""
        found = [record for record in self._evaluations(split) if record["step"] == step]
        return {name: v for record in found for name, v in report.metrics_in(record).items()}

    def outcomes(
        self, step: int, split: str, most: bool = False
    ) -> "Mapping[str, tuple[str, Outcomes]]":
        """What the examples of each task came to, see `recalign.evaluation.outcomes.read`.

        Args:
          step: of the checkpoint.
          split: "validation" or "test".
          most: of validation all examples, where all have been evaluated, instead of those that
            training takes.

        Raises:
          UserError: there was no such evaluation, or its file cannot be read.
        """
        from recalign.evaluation import outcomes

        paths = [self._outcomes(step, split, of_all) for of_all in (most, not most)]
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            raise UserError(
                f"there is no {self._outcomes(step, split)}, which tells what each example came "
                f"to: it is written by `recalign eval --model_dir {self.path} --split {split} "
                f"--step {step}`"
            )
        return outcomes.read(path)

    def steps_with_outcomes(self, split: str) -> list[int]:
        """The steps of which `outcomes` has a split, ascending."""
        return sorted({step for of, step, _ in self._with_outcomes() if of == split})

    def _with_outcomes(self) -> Iterator[tuple[str, int, Path]]:
        """The split and step of each file of outcomes, and its path."""
        for path in (self.path / OUTCOMES).glob("*.npz"):
            split, step, *_ = [*path.stem.split("-"), ""]
            if step.isdecimal():
                yield split, int(step), path

    def _outcomes(self, step: int, split: str, all_of_few: bool = False) -> Path:
        """The file; of all examples of validation it is another one than training's of a few."""
        return self.path / OUTCOMES / f"{split}-{step}{'-all' * all_of_few}.npz"

    def checkpoints(self) -> list[int]:
        """The steps that there are checkpoints of, ascending."""
        return list_steps(self.path / "checkpoints")

    def record_seconds(self, step: int, seconds: float) -> None:
        """Writes down how long it took to come to a step."""
        kept = {key: value for key, value in self._seconds().items() if int(key) < step}
        known = json.dumps({**kept, str(step): round(seconds, 3)})
        write_text(self.path / SECONDS, known + "\n")

    def seconds(self, step: int) -> float:
        """How long it took to come to a step, or to the last one before it that is known."""
        known = [value for key, value in self._seconds().items() if int(key) <= step]
        return known[-1] if known else 0.0

    def _seconds(self) -> dict[str, float]:
        path = self.path / SECONDS
        try:
            found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            return {str(int(step)): float(value) for step, value in found.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: no seconds by step ({error}); remove it") from error

    def forget_after(self, step: int) -> None:
        """Takes back the evaluations of later steps, which a run that goes on here makes again."""
        for _, later, path in [*self._with_outcomes()]:
            if later > step:
                path.unlink()
        with changing(self.path / HISTORY):
            kept = [record for record in self._history() if record["step"] <= step]
            if (self.path / HISTORY).exists():
                lines = "".join(json.dumps(record) + "\n" for record in kept)
                write_text(self.path / HISTORY, lines)

    def _evaluations(self, split: str) -> list[dict]:
        return report.comparable(self._history(), split, self.eval_examples)

    def _history(self) -> list[dict]:
        path = self.path / HISTORY
        return report.read_metrics(path) if path.exists() else []
