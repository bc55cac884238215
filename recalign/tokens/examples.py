"""The examples that a run is judged by, from a folder that `recalign cache` wrote."""

import functools
from pathlib import Path

from recalign import domains
from recalign.errors import UserError
from recalign.evaluation.examples import Examples, load
from recalign.tokens import batches

EXAMPLES, DOMAINS = "examples", "domains"


def examples(
    directory: str, split: str, num_examples: int | None = None, task: str | None = None
) -> list[Examples]:
    """The examples of a split, of each task that can be judged.

    Args:
      directory: the folder. Of validation it holds as many examples as EVAL_EXAMPLES said.
      split: "validation" or "test".
      num_examples: must be None: the folder has decided.
      task: this one alone.

    Raises:
      UserError: there is no such folder, task or choice.
    """
    if num_examples is not None:
        raise UserError(
            f"EVAL_EXAMPLES = {num_examples}, but how many there are was decided when {directory} "
            "was written: write it again with --gin.EVAL_EXAMPLES"
        )
    batches.metadata(directory)  # a clear error where there is none
    paths = {path.stem: path for path in (Path(directory) / EXAMPLES / split).glob("*.npz")}
    if task is not None and task not in paths:
        known = ", ".join(sorted(paths)) or "none"
        raise UserError(f"{directory} has no task {task!r} that can be judged; it has: {known}")
    domain = functools.cache(lambda name: domains.load(name, Path(directory) / DOMAINS))
    decode = functools.partial(batches.decode, directory=directory)
    return [
        load(path, domain, decode) for name, path in sorted(paths.items()) if task in (None, name)
    ]
