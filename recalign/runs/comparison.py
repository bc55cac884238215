"""What a run is compared with, or added to: other runs and baselines, on the same examples."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from recalign.errors import UserError
from recalign.evaluation import mixing
from recalign.evaluation.baselines import rows as baselines
from recalign.evaluation.baselines.kept import content
from recalign.evaluation.examples import Examples, RetrievalExamples
from recalign.evaluation.outcomes import Errors, Outcomes
from recalign.files import locate
from recalign.runs.directory import CONFIG, RunDirectory
from recalign.runs.result import read


@dataclasses.dataclass(frozen=True)
class Other:
    """The other side of a comparison.

    Attributes:
      name: how tables call it.
      outcomes: what the examples of each task came to; only those of tasks that it can do.
    """

    name: str
    outcomes: Mapping[str, Outcomes]


def is_run(name: str) -> bool:
    """Whether a name is that of a run's folder, which comes before a baseline's."""
    return (locate(name) / CONFIG).exists()


def other_side(against: str, examples: Sequence[Examples]) -> Other:
    """Another run, as it was evaluated before, or a baseline, fitted now or before.

    Args:
      against: the folder of a run, or the name of a baseline.
      examples: of each task, all of one split.

    Raises:
      UserError: there is no such run or baseline; it cannot do any of the tasks; or the run was
        not evaluated on the split, on another domain's content, or on other ratings.
    """
    if is_run(against):
        return _of_run(against, examples)
    known = [*baselines.RANKERS, *baselines.RATERS]
    if against not in known:
        raise UserError(
            f"--against {against}: there is no run in such a folder, and no baseline of that name; "
            f"there are {', '.join(known)}"
        )
    for each in examples:
        baselines.check(each.domain, against)
    found = {each.task: baselines.evaluate_examples(against, each) for each in examples}
    outcomes = {task: each.outcomes for task, each in found.items() if each is not None}
    if not outcomes:
        raise UserError(f"--against {against}: it does none of the run's tasks, {', '.join(found)}")
    return Other((baselines.RANKERS | baselines.RATERS)[against].label, outcomes)


def baseline_term(examples: RetrievalExamples, name: str) -> mixing.Term:
    """A baseline, fitted now or before, as a model of a sum that is asked of examples."""
    domain = examples.domain
    ranker, _ = baselines.fitted_ranker(domain, name)
    return mixing.Term(baselines.RANKERS[name].label, mixing.scorer_of(ranker, domain.num_items))


def tell_domain(examples: Examples) -> str:
    """The name and content hash of the domain that examples come from."""
    return f"{examples.domain.name} {content(examples.domain)}"


def _of_run(folder: str, examples: Sequence[Examples]) -> Other:
    """The run at the step that validation chose, or else the last one evaluated on the split."""
    directory, split = RunDirectory(folder), examples[0].split
    result, steps = read(directory.path), directory.steps_with_outcomes(split)
    step = result.step if result else max(steps, default=0)
    found = directory.outcomes(step, split, most=True)
    shared = [each for each in examples if each.task in found]
    if not shared:
        raise UserError(
            f"--against {folder}: it was evaluated on {', '.join(found)}, and this run on "
            f"{', '.join(each.task for each in examples)}"
        )
    for each in shared:
        theirs, ours = found[each.task][0], tell_domain(each)
        if theirs != ours:
            raise UserError(
                f"--against {folder}: {each.task} was evaluated on {theirs} there and on {ours} "
                "here: only what was asked of the same domain can be compared. Evaluate both on "
                "one prepared domain"
            )
        for part in found[each.task][1].values():
            if isinstance(part, Errors) and not np.array_equal(part.users, each.users):
                raise UserError(
                    f"--against {folder}: of {each.task} it was evaluated on other examples of "
                    f"{split} than this run is here: `recalign eval --model_dir {folder} --split "
                    f"{split} --step {step}` takes all"
                )
    return Other(f"{folder}, step {step}", {e.task: found[e.task][1] for e in shared})
