"""T5X run for real; where it cannot be imported, everything here is skipped."""

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest
from click.testing import CliRunner

from tests.samples.shops import prepared_with_ratings

GIN = Path(__file__).parents[2] / "gin"


def pytest_collection_modifyitems(items):
    if importlib.util.find_spec("t5x") is None:
        skip = pytest.mark.skip(reason="T5X is not installed (it is not on PyPI)")
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(skip)


@pytest.fixture(scope="module", autouse=True)
def _as_many_samples_to_shuffle_as_t5x():
    """T5X reads the same tasks in a process of its own, where nothing is changed of SeqIO."""
    import seqio

    with pytest.MonkeyPatch.context() as patch:
        options = {"shuffle_buffer_size": None}  # as many as the task says
        whole = functools.partialmethod(seqio.Task.get_dataset, **options)
        patch.setattr(seqio.Task, "get_dataset", whole)
        yield


@pytest.fixture(scope="session")
def shrunk() -> MappingProxyType:
    """Overrides that make the recipe of the toy shop small."""
    return MappingProxyType(
        {
            "BATCH_SIZE": 4,
            "EVAL_STEPS": 1,
            "EVAL_EXAMPLES": 20,
            "T5Config.emb_dim": 16,
            "T5Config.num_encoder_layers": 1,
            "T5Config.num_decoder_layers": 1,
        }
    )


@pytest.fixture(scope="session")
def t5x() -> Callable[..., None]:
    """Runs `python -m t5x.SCRIPT` with gin files and overrides."""

    def run(script: str, *files: str, flags: tuple[str, ...] = (), **bindings) -> None:
        command = [sys.executable, "-m", f"t5x.{script}", f"--gin_search_paths={GIN}", *flags]
        command += [f"--gin_file={file}" for file in files]
        for name, value in bindings.items():
            # T5X takes a value as gin would: paths and names need quotes.
            quoted = f'"{value}"' if isinstance(value, str | Path) else value
            command.append(f"--gin.{name}={quoted}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]

    return run


@pytest.fixture(scope="session")
def recalign() -> Callable[..., str]:
    """Runs our own command line."""
    from recalign.cli import recalign as command

    def run(*arguments, **bindings) -> str:
        bindings = [f"--gin.{name}={value}" for name, value in bindings.items()]
        done = CliRunner().invoke(command, [*map(str, arguments), *bindings])
        assert done.exit_code == 0, f"{done.output} {done.exception!r}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def shop(recalign):
    """The toy shop, prepared small."""
    from recalign import domains

    recalign("prepare", "toyshop", "--users", 120, "--items", 60)
    return domains.load("toyshop")


@pytest.fixture(scope="module")  # what a module prepares ends with it
def rated(tmp_path_factory):
    """A small domain with ratings, prepared where T5X will look for it."""
    folder = Path(os.environ["RECALIGN_DATA_DIR"])
    return prepared_with_ratings("starshop", folder, tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="session")
def train_with_t5x(t5x, shrunk, shop) -> Callable[..., None]:
    """Trains in a folder, with an evaluation and a checkpoint every three steps."""

    def run(folder: Path, steps: int) -> None:
        periods = {"EVAL_PERIOD": 3, "CHECKPOINT_PERIOD": 3}
        t5x(*("train", "t5x/toyshop.gin"), MODEL_DIR=folder, TRAIN_STEPS=steps, **shrunk, **periods)

    return run


@pytest.fixture(scope="session")
def trained(train_with_t5x, tmp_path_factory) -> Path:
    """A run of T5X, six steps long."""
    folder = tmp_path_factory.mktemp("t5x_run")
    train_with_t5x(folder, 6)
    return folder
