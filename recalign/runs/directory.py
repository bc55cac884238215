"""The folder of a run: one process at a time, one configuration, and what was measured when."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from recalign.errors import UserError
from recalign.evaluation import report
from recalign.files import replacing
from recalign.runs import configuration

CONFIG = "config.gin"
LOCK = ".lock"
METRICS, HISTORY = "metrics.json", "metrics.jsonl"

# A run may move, and may be told to train longer: that changes nothing that it has done.
FREE = ("MODEL_DIR", "TRAIN_STEPS")
LOWER_IS_BETTER = ("rmse", "mae", "invalid_rate", "duplicate_rate")


class RunDirectory:
    """What a run keeps beside its checkpoints: config.gin, metrics.json and metrics.jsonl."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training here; the lock of a dead process is gone with it.

        Raises:
          UserError: another process trains here, which is named.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise UserError(
                    f"{self.path}: another process trains here ({file.read().strip()}): stop it "
                    "first, or name another MODEL_DIR"
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield

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
        before, now = configuration.bindings(path.read_text()), configuration.bindings(text)
        changed = [
            name
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name) and name not in FREE
        ]
        if changed:
            lines = [
                f"  {sign} {name} = {config[name]}"
                for name in changed
                for sign, config in (("-", before), ("+", now))
                if name in config
            ]
            raise UserError(
                "\n".join([f"{path} says that this run was begun with another configuration:"])
                + "\n"
                + "\n".join(lines)
                + "\nName another MODEL_DIR, or go on here with --accept_changes"
            )

    def write_config(self, text: str) -> None:
        """Writes config.gin."""
        with replacing(self.path / CONFIG) as draft:
            draft.write_text(text)

    def record(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Adds an evaluation to metrics.jsonl and makes it metrics.json."""
        report.append_metrics(self.path / HISTORY, step, split, metrics)
        report.write_metrics(self.path / METRICS, metrics)

    def evaluated(self, step: int, split: str = "validation") -> bool:
        """Whether the evaluation of a step is recorded."""
        return any((r["step"], r["split"]) == (step, split) for r in self._history())

    def best_step(self, metric: str | None) -> int | None:
        """The step that is best on validation.

        Args:
          metric: the full name, `<task>/validation/<protocol>/<metric>`, or `<protocol>/<metric>`,
            of which the mean over the tasks that have it counts (a mixture may have several
            domains).

        Returns:
          Of equal ones the first; None where no evaluation has the metric.
        """
        values = {}
        for record in self._history():
            found = [v for name, v in record.items() if metric in (name, name.split("/", 2)[-1])]
            if found and record["split"] == "validation":
                values[record["step"]] = sum(found) / len(found)
        if not values:
            return None
        best = min if metric.endswith(LOWER_IS_BETTER) else max
        return best(sorted(values), key=values.__getitem__)

    def forget_after(self, step: int) -> None:
        """Takes back the evaluations of later steps, which a run that goes on here makes again."""
        kept = [record for record in self._history() if record["step"] <= step]
        if (self.path / HISTORY).exists():
            with replacing(self.path / HISTORY) as draft:
                draft.write_text("".join(json.dumps(record) + "\n" for record in kept))

    def _history(self) -> list[dict]:
        path = self.path / HISTORY
        return report.read_metrics(path) if path.exists() else []
