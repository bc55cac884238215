"""Ablations: a recipe and its variations, trained with the same seeds, side by side in a table."""

import itertools
import logging
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import gin

import recalign.gin as gin_files
from recalign.errors import UserError
from recalign.evaluation.intervals import ENDS, name_end
from recalign.evaluation.outcomes import Evaluated, summarise
from recalign.evaluation.report import format_ends, markdown
from recalign.files import locate
from recalign.progress import track
from recalign.runs import configuration
from recalign.runs.directory import FREE, HOW_LONG, RunDirectory
from recalign.runs.result import Result, read
from recalign.runs.run import Run, make

log = logging.getLogger(__name__)

RECIPE = "recipe"
"""The name of the recipe as it is, without an ablation."""

METRICS = (
    "full/hr@10",
    "full/ndcg@10",
    "full_unseen/hr@10",
    "full_unseen/ndcg@10",
    r"cand\d+/hr@10",  # a small catalogue has fewer than a hundred candidates
    r"cand\d+/ndcg@10",
    "rating/rmse",
    "rating_expected/rmse",
)
"""Patterns, each a column of the table for each task that has such a metric."""

# "my_shop_retrieval_only": a domain, and what of it is trained on.
_MIXTURE = re.compile(
    r"(.+?)_(aligned|recommendation|auxiliary|mim|mlm|bpr|(?:retrieval|ranking|rating)(?:_only)?)"
)

# What an ablation that leaves out kinds of task binds.
_LEFT_OUT = "recalign.samples.registry.mixing_rate.left_out"

Configure = Callable[..., None]
"""Makes the recipe the configuration: given default bindings, `files` to include after it and
`overrides` of all others."""


class Trained(NamedTuple):
    """A training that came to its end, and its folder."""

    result: Result
    folder: Path


Found = Mapping[str, Sequence[Trained]]
"""The trainings of each variation, by seed."""


def list_ablations() -> list[str]:
    """The recipe as it is, and the ablations that come with recalign."""
    found = {
        file.stem for path in gin_files.__path__ for file in Path(path).glob("ablations/*.gin")
    }
    return [RECIPE, *sorted(found)]


def run(
    configure: Configure,
    names: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    split: str = "validation",
    domain: str | None = None,
) -> Found:
    """Trains every ablation with every seed, one after the other.

    Run again, it goes on where it stopped: each training has its folder, OUTPUT/NAME/seed_N, and
    what is finished there is read from its result.json.

    Args:
      configure: see `Configure`.
      names: `RECIPE`, or files `ablations/NAME.gin`.
      seeds: of the parameters, dropout and data; the same for every ablation.
      output: the folder of the runs.
      split: "validation", or "test" to evaluate that too.
      domain: trains on this one instead of the recipe's.

    Raises:
      UserError: as of `check` and of a training.
    """
    found: dict[str, list[Trained]] = {}
    trainings = list(itertools.product(names, seeds))
    for name, seed in track(trainings, "ablations", "training"):
        made = _configure(configure, name, seed, output, domain)
        result = _read_finished(made)
        if result is None:
            log.info("%s, seed %d: %s", name, seed, made.model_dir)
            made.train()
        if split == "test" and not (result and result.test):
            made.report(split)
        folder = locate(made.model_dir)
        found.setdefault(name, []).append(Trained(read(folder), folder))
    return found


def run_folder(output: Path, name: str, seed: int) -> Path:
    """Where a variation is trained with a seed."""
    return output / name / f"seed_{seed}"


def check(
    configure: Configure,
    names: Sequence[str],
    seed: int,
    output: Path,
    domain: str | None = None,
) -> None:
    """Finds out whether `run` can begin, whose arguments see.

    Raises:
      UserError: an ablation does not exist, does not fit the recipe or leaves out what the recipe
        has not; the domain is not prepared; or the recipe sets a run's folder or seed itself.
    """
    idle = _configure(configure, RECIPE, seed, output, domain).data.idle()
    for name in names:
        made = _configure(configure, name, seed, output, domain)
        bound = configuration.current()
        if name != RECIPE and _LEFT_OUT in bound and made.data.idle() == idle:
            samples = ("MIXTURE_OR_TASK_NAME", "TOKENS_DIR")
            told = next((bound[macro] for macro in samples if macro in bound), "the recipe")
            what = told.strip("'")
            raise UserError(
                f"--ablations {name} leaves nothing out: the tasks of {what} are the same with and "
                "without it"
            )
    made.data.vocabulary_size()


def _read_finished(made: Run) -> Result | None:
    """The result of the very run that is configured, if it came to its end."""
    result = read(locate(made.model_dir))
    # A run that was to be shorter is not finished.
    free = [name for name in FREE if name not in HOW_LONG]
    return result if result and result.is_of(configuration.current(), free) else None


def _configure(configure: Configure, name: str, seed: int, output: Path, domain: str | None) -> Run:
    folder = str(run_folder(output, name, seed))
    files = [] if name == RECIPE else [f"ablations/{name}.gin"]
    told = [f"MODEL_DIR={folder}", f"RANDOM_SEED={seed}"]
    configure(*told, files=files)
    if domain is not None:
        mixture = gin.query_parameter("%MIXTURE_OR_TASK_NAME")
        if not (match := _MIXTURE.fullmatch(mixture)):
            raise UserError(
                f"--domains: {mixture!r} is no mixture of a domain, DOMAIN_aligned or so"
            )
        configure(*told, files=files, overrides=[f"MIXTURE_OR_TASK_NAME={domain}_{match[2]}"])
    made = make()
    if (made.model_dir, made.trainer.seed) != (folder, seed):
        raise UserError("--gin.MODEL_DIR and --gin.RANDOM_SEED: use --output and --seeds instead")
    return made


def format_table(found: Found, split: str = "validation") -> str:
    """A line an ablation: mean ± standard deviation of each metric over the seeds.

    Returns:
      Markdown: those of `METRICS` that a task has, "-" where not every seed has a number, then the
      mean seconds of training and each seed's step that validation chose. The deviation is the
      sample's, and is left out where there is one seed. In brackets stand the 95 % intervals of the
      means, over users, where runs have kept what their examples came to.
    """
    # Not every step need be evaluated on every task (EVAL_PERIODS).
    every = (getattr(result, split) for trained in found.values() for result, _ in trained)
    names = dict.fromkeys(name for measured in every for name in measured)
    columns = [name for name in names if _place(name) is not None]
    columns.sort(key=lambda name: (name.split("/")[0], _place(name)))
    head = ["", *(f"{name.split('/')[0]} {_metric(name)}" for name in columns), "seconds", "steps"]
    body = []
    for name, trained in found.items():
        results, ends = [result for result, _ in trained], _ends(trained, split)
        measured = [getattr(each, split) for each in results]
        cells = [_cell([each.get(c) for each in measured], ends.get(c)) for c in columns]
        seconds = statistics.mean(result.seconds for result in results)
        steps = " ".join(str(result.step) for result in results)
        body.append([name, *cells, f"{seconds:.0f}", steps])
    return markdown([head, *body])


def _place(name: str) -> int | None:
    """Which of `METRICS` a full name is one of; None if it is none."""
    of = (place for place, m in enumerate(METRICS) if re.fullmatch(m, _metric(name)))
    return next(of, None)


def _metric(name: str) -> str:
    return name.split("/", 2)[2]


def _cell(values: Sequence[float | None], ends: tuple[float, float] | None) -> str:
    if None in values:
        return "-"
    cell = f"{statistics.mean(values):.4f}"
    if len(values) > 1:
        cell += f" ± {statistics.stdev(values):.4f}"
    return f"{cell} {format_ends(*ends)}" if ends else cell


def _ends(trained: Sequence[Trained], split: str) -> dict[str, tuple[float, float]]:
    """The ends of the intervals of means over seeds, by full name; none without their outcomes."""
    seeds: dict[str, list[Evaluated]] = {}
    for result, folder in trained:
        directory, measured = RunDirectory(folder), getattr(result, split)
        if result.step not in directory.steps_with_outcomes(split):
            return {}
        for task, (_, outcomes) in directory.outcomes(result.step, split).items():
            start = f"{task}/{split}/"
            metrics = {n.removeprefix(start): v for n, v in measured.items() if n.startswith(start)}
            known = {name: value for name, value in metrics.items() if value is not None}
            seeds.setdefault(f"{task}/{split}", []).append(Evaluated(known, outcomes))
    rows = {where: summarise(each) for where, each in seeds.items()}
    return {
        f"{where}/{name}": tuple(row[name_end(name, end)] for end in ENDS)
        for where, row in rows.items()
        for name in row
        if name_end(name, ENDS[0]) in row
    }
