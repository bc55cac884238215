"""One JSON a run: what it was, what it took, what it reached."""

import dataclasses
import json
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

import recalign
from recalign.errors import UserError
from recalign.files import write_text

FILE = "result.json"


@dataclasses.dataclass(frozen=True)
class Result:
    """A run that came to its end.

    Attributes:
      version: of recalign.
      commit: of recalign's repository, "-dirty" where files differ; None where there is none.
      configuration: every binding, as gin text by whole names.
      seed: RANDOM_SEED.
      seconds: wall-clock time of training, with evaluation on validation, over all calls.
      last_step: the step that it came to.
      step: the step that validation chose, or else the last one.
      chosen_by: the metric that chose it; None if none did.
      validation: `<task>/validation/<protocol>/<metric>` at that step, null where it is no number.
      test: the same of test; empty where nobody has asked.
    """

    version: str
    commit: str | None
    configuration: dict[str, str]
    seed: int
    seconds: float
    last_step: int
    step: int
    chosen_by: str | None
    validation: dict[str, float | None]
    test: dict[str, float | None] = dataclasses.field(default_factory=dict)

    def is_of(self, configuration: Mapping[str, str], free: Collection[str]) -> bool:
        """Whether it is of a configuration; bindings that are free may differ."""
        names = {*self.configuration, *configuration} - {*free}
        return all(self.configuration.get(name) == configuration.get(name) for name in names)

    def with_origin_of(self, earlier: "Result") -> "Result":
        """What made the parameters, and their test, as an earlier call on them told."""
        return dataclasses.replace(
            self,
            version=earlier.version,
            commit=earlier.commit,
            seconds=earlier.seconds,
            test=earlier.test if earlier.step == self.step else {},
        )

    def write(self, folder: Path) -> None:
        """Writes result.json."""
        write_text(folder / FILE, json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def read(folder: Path) -> Result | None:
    """The result in a folder; None where there is none.

    Raises:
      UserError: it cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        found = Result(**json.loads(path.read_text(encoding="utf-8")))
        if not isinstance(found.version, str) or not isinstance(found.last_step, int):
            raise TypeError("the version or the last step is none")
        return found
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no result of a run ({error}): remove it") from error


def commit() -> str | None:
    """The commit of the checkout that recalign is imported from, if it is one."""
    folder = Path(recalign.__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    command.append("--exclude=*")  # of tags
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        # A wheel may be installed somewhere inside another repository.
        inside = ["git", "-C", str(folder), "ls-files", "--error-unmatch", "__init__.py"]
        subprocess.run(inside, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
