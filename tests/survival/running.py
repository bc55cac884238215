"""Runs of the command line in processes of their own, to be killed, and what they leave behind."""

import dataclasses
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

PATIENCE = 300  # seconds that a process may take for anything
AGAIN = 75  # the exit code after SIGTERM

# Training from a folder of tokens needs no TensorFlow, and starts faster without.
BLOCKED = ("tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5x", "clu")
WITHOUT_TENSORFLOW = f"""
import sys
for name in {BLOCKED}:
    sys.modules[name] = None  # importing it now raises ImportError
from recalign.cli import main
main()
"""
WITH_TENSORFLOW = "from recalign.cli import main; main()"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training, as arguments of `recalign train`.

    Attributes:
      arguments: all but MODEL_DIR.
      program: runs the command line.
    """

    arguments: tuple[str, ...]
    program: str = WITHOUT_TENSORFLOW

    def but(self, *more: str) -> "Recipe":
        """The same with more arguments."""
        return dataclasses.replace(self, arguments=(*self.arguments, *more))

    def start(self, model_dir: Path) -> "Process":
        """Starts, or goes on with, the training in a folder."""
        command = [sys.executable, "-c", self.program, "train", *self.arguments]
        return Process([*command, f"--gin.MODEL_DIR={model_dir}"], model_dir)

    def finish(self, model_dir: Path, code: int = 0) -> str:
        """Trains to the end; gives what was said, and checks the exit code."""
        return self.start(model_dir).end(code)


class Process:
    """One call of the command line, its messages in a file beside the folder of the run."""

    def __init__(self, command: list[str], model_dir: Path):
        self.model_dir = model_dir
        number = len(list(model_dir.parent.glob(f"{model_dir.name}.*.log")))
        self.log = model_dir.with_name(f"{model_dir.name}.{number}.log")
        self._event_files = self._count_event_files()
        with self.log.open("w") as file:
            self._popen = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Waits until something holds; False where the process has ended before that."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self._popen.poll() is not None:
                return False
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(self.said)
            time.sleep(0.002)
        return True

    def wait_until_it_listens(self) -> bool:
        """Waits until SIGTERM is caught, a moment after the start."""
        status = Path(f"/proc/{self._popen.pid}/status")
        bit = 1 << (signal.SIGTERM - 1)
        return self.wait_for(
            lambda: int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16) & bit
        )

    def wait_until_trains(self) -> bool:
        """Waits until the state is there and steps begin, from where on none is lost."""
        return self.wait_for(lambda: self._count_event_files() > self._event_files)

    def _count_event_files(self) -> int:
        return len(list(self.model_dir.glob("events.out.tfevents.*")))

    @property
    def said(self) -> str:
        """All messages so far."""
        return self.log.read_text()

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> bool:
        """Sends SIGKILL; False where it had ended by itself."""
        self._popen.kill()
        return self._popen.wait() == -signal.SIGKILL

    def end(self, code: int = 0) -> str:
        """Waits for the end; gives what was said, and checks the exit code."""
        try:
            found = self._popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        assert found == code, self.said
        return self.said


def steps(model_dir: Path) -> list[int]:
    """The complete checkpoints of a run."""
    folder = model_dir / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def partial(model_dir: Path) -> list[str]:
    """The checkpoints that are being written, or were when the process was killed."""
    return [path.name for path in (model_dir / "checkpoints").glob("*.orbax-checkpoint-tmp*")]


def state(model_dir: Path, step: int) -> dict:
    """Parameters, optimiser state and step of a checkpoint, as numpy arrays."""
    path = model_dir / "checkpoints" / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def position(model_dir: Path, step: int) -> dict[str, bytes]:
    """The files that hold the position in the input."""
    folder = model_dir / "checkpoints" / str(step) / "input"
    return {path.name: path.read_bytes() for path in folder.glob("position*")}


def assert_same_states(
    one: Path, other: Path, step: int, compare: Callable = np.testing.assert_array_equal
) -> None:
    """Every array of two checkpoints is the same."""
    first, second = state(one, step), state(other, step)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    leaves = jax.tree_util.tree_leaves_with_path(first)
    assert len(leaves) > 20
    for (path, leaf), expected in zip(leaves, jax.tree.leaves(second), strict=True):
        compare(leaf, expected, err_msg=jax.tree_util.keystr(path))


def assert_same_runs(one: Path, other: Path, positions: bool = True) -> None:
    """Two runs ended the same, bit for bit: checkpoints kept, arrays, input, metrics.

    Args:
      one: a run.
      other: another.
      positions: whether the input's position is written as the same bytes each time.
    """
    assert steps(one) == steps(other)
    for step in steps(one):
        assert_same_states(one, other, step)
        found, expected = position(one, step), position(other, step)
        assert found.keys() == expected.keys()
        assert found
        assert found == expected or not positions
    for name in ("metrics.jsonl", "metrics.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert not partial(one)


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
