"""Stages of work as Apache Beam pipelines, on whatever runner its options name."""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from recalign.domains.scratch import Scratch
from recalign.domains.sharded import Stages
from recalign.errors import UserError
from recalign.files import resolve


@contextlib.contextmanager
def open_stages(options: str, folder: Path) -> Iterator[tuple[Scratch, Stages]]:
    """Gives a folder that all workers share, and what runs a function over tasks there.

    A stage is a pipeline of its own: a task an element, whose result is a file that the driver
    reads when all are done. What tasks tell each other is in files too, so that no runner has to
    hold, or to shuffle, more than the numbers of the tasks.

    Args:
      options: Beam's pipeline options, "runner=FlinkRunner,parallelism=8"; "" for the DirectRunner.
        `temp_location` names the folder that workers on other machines share, in a bucket mostly.
      folder: holds the shared folder otherwise.

    Raises:
      UserError: Beam is not installed.
    """
    try:
        import apache_beam
        from apache_beam.options import pipeline_options
    except ImportError as error:
        raise UserError("--beam needs Apache Beam: pip install 'recalign[cache]'") from error
    given = [option.strip().removeprefix("--") for option in options.split(",") if option.strip()]
    flags = pipeline_options.PipelineOptions([f"--{option}" for option in given])
    place = flags.view_as(pipeline_options.GoogleCloudOptions).temp_location
    scratch = Scratch(resolve(place or folder) / f".shards-{uuid.uuid4().hex[:8]}")
    scratch.path.mkdir(parents=True)

    def run(function: Callable[..., Any], tasks: Sequence[tuple]) -> Iterator[Any]:
        results = scratch / f"results-{uuid.uuid4().hex[:8]}"
        results.path.mkdir()
        with apache_beam.Pipeline(options=flags) as pipeline:
            _ = (
                pipeline
                | apache_beam.Create(range(len(tasks)))
                | apache_beam.Reshuffle()
                | apache_beam.Map(lambda number: _work(function, tasks[number], results, number))
            )
        for number in range(len(tasks)):
            result = (results / str(number)).read()
            if isinstance(result, UserError):
                raise result
            yield result

    try:
        yield scratch, run
    finally:
        scratch.path.rmtree()


def _work(function: Callable[..., Any], task: tuple, results: Scratch, number: int) -> None:
    """Does one task; a user's error is a result, since Beam would wrap it in one of its own."""
    try:
        result = function(*task)
    except UserError as error:
        result = error
    (results / str(number)).write(result)
