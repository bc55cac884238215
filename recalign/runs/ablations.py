"""Ablations: a recipe and its variations, trained with the same seeds, side by side in a table."""

import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import recalign.gin as gin_files
from recalign.errors import UserError
from recalign.evaluation.report import markdown
from recalign.runs.run import Run, Tables, make

log = logging.getLogger(__name__)

RECIPE = "recipe"
"""The name of the recipe as it is, without an ablation."""

MODEL = "recalign"
"""The row of the model in a report."""

METRICS = (
    "full/hr@10",
    "full/ndcg@10",
    "full_unseen/hr@10",
    "full_unseen/ndcg@10",
    "cand100/hr@10",
    "cand100/ndcg@10",
    "rating/rmse",
    "rating_expected/rmse",
)

Configure = Callable[..., None]
"""Makes the recipe the configuration: given default bindings, and `files` to include after it."""


def known() -> list[str]:
    """The recipe as it is, and the ablations that come with recalign."""
    found = {
        file.stem for path in gin_files.__path__ for file in Path(path).glob("ablations/*.gin")
    }
    return [RECIPE, *sorted(found)]


def run(
    configure: Configure, names: Sequence[str], seeds: Sequence[int], output: Path
) -> Iterator[tuple[str, list[Tables]]]:
    """Trains every ablation with every seed, one after the other.

    Run again, it goes on where it stopped: each training has its folder, OUTPUT/NAME/seed_N.

    Args:
      configure: see `Configure`.
      names: `RECIPE`, or files `ablations/NAME.gin`.
      seeds: of the parameters, dropout and data; the same for every ablation.
      output: the folder of the runs.

    Yields:
      Each name, with the reports on test of its seeds.

    Raises:
      UserError: an ablation does not exist or does not fit the recipe, before any is trained; or
        the recipe sets a run's folder or seed itself.
    """
    for name in names:
        _configured(configure, name, seeds[0], output)
    for name in names:
        reports = []
        for seed in seeds:
            log.info("ablation %s, seed %d", name, seed)
            reports.append(_configured(configure, name, seed, output).train())
        yield name, reports


def _configured(configure: Configure, name: str, seed: int, output: Path) -> Run:
    folder = str(output / name / f"seed_{seed}")
    files = [] if name == RECIPE else [f"ablations/{name}.gin"]
    configure(f"MODEL_DIR={folder}", f"RANDOM_SEED={seed}", files=files)
    found = make()
    if (found.model_dir, found.trainer.seed) != (folder, seed):
        raise UserError("--gin.MODEL_DIR and --gin.RANDOM_SEED: use --output and --seeds instead")
    return found


def format_table(found: Mapping[str, Sequence[Tables]], metrics: Sequence[str] = METRICS) -> str:
    """A line an ablation: mean ± standard deviation of each metric over the seeds.

    Args:
      found: what `run` yields.
      metrics: `<protocol>/<metric>`, those of the model on test; one that no task has is left out.

    Returns:
      Markdown. The deviation is the sample's, and is left out where there is one seed.
    """
    # The same for every ablation, since what a run is judged by does not depend on it.
    [first, *_], *_ = found.values()
    columns = [
        (task, metric)
        for task, rows in first.items()
        for metric in metrics
        if metric in rows[MODEL]
    ]
    head = ["", *(f"{task} {metric}" for task, metric in columns)]
    body = [
        [name, *(_cell([r[task][MODEL][metric] for r in reports]) for task, metric in columns)]
        for name, reports in found.items()
    ]
    return markdown([head, *body])


def _cell(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean
