"""What a run writes down while it trains and is evaluated, and what of it the log tells."""

import difflib
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from recalign.engine import processes
from recalign.engine.training.batch_statistics import row_text
from recalign.evaluation.baselines.rows import Rows
from recalign.evaluation.examples import Examples
from recalign.evaluation.outcomes import Evaluated, summarise
from recalign.files import make_folder, replacing
from recalign.runs.comparison import tell_domain
from recalign.runs.directory import RunDirectory
from recalign.runs.evaluation import name_metrics

log = logging.getLogger(__name__)

HEADLINE = re.compile(r"\S+ ((full|full_unseen|cand\d+)/hr@10|rating/(rmse|mae))")
"""What the log tells of a task, "shop_retrieval full/hr@10"."""


def record(
    directory: RunDirectory,
    step: int,
    examples: Sequence[Examples],
    evaluated: Mapping[str, Evaluated],
    best_metric: str | None,
) -> Rows:
    """Writes down what tasks came to; of several processes the first one does.

    Args:
      directory: the run's.
      step: of the checkpoint that was evaluated.
      examples: of the tasks, all of one split.
      evaluated: what each task came to, by its name.
      best_metric: the run's, see `Run`; a warning says where it is not measured.

    Returns:
      Metrics with the ends of their intervals, by task.
    """
    rows = {task: summarise([each]) for task, each in evaluated.items()}
    if not processes.is_first():
        return rows
    split = examples[0].split
    found = name_metrics({task: each.metrics for task, each in evaluated.items()}, split)
    shown = {name.replace(f"/{split}/", " "): value for name, value in found.items()}
    told = [
        f"{name} {value:.4f}"
        for name, value in shown.items()
        # Lists shorter than ten (NUM_BEAMS) have no hr@10.
        if HEADLINE.fullmatch(name) or (name.endswith("/hr@1") and f"{name}0" not in shown)
    ]
    log.info("step %d, %s: %s", step, split, ", ".join(told))
    domains = {each.task: tell_domain(each) for each in examples}
    outcomes = {task: (domains[task], each.outcomes) for task, each in evaluated.items()}
    few = directory.eval_examples
    limit = few if few is not None and all(len(each) <= few for each in examples) else None
    directory.record(step, split, name_metrics(rows, split), outcomes, limit)
    if wrong := [name for name, value in found.items() if not math.isfinite(value)]:
        log.warning("step %d: %s is no finite number, written as null", step, ", ".join(wrong))
    if split == "validation" and best_metric and directory.is_missed(best_metric, list(domains)):
        parts = 3 if best_metric.count("/") > 1 else 1  # of a full name or not; intervals have more
        measured = sorted(name for name in directory.measured() if name.count("/") == parts)
        near = difflib.get_close_matches(best_metric, measured)
        log.warning(
            "BEST_METRIC is %r, which is not measured, so no checkpoint is kept as the best; %s",
            best_metric,
            f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(measured)}",
        )
    return rows


def dump_nonfinite(
    folder: Path,
    decode: Callable[[Sequence[int]], str],
    step: int,
    batch: Mapping[str, np.ndarray],
    rows: np.ndarray,
) -> str:
    """Writes the rows of a batch whose loss is not finite, or all of them, as text; tells where.

    Args:
      folder: of the run.
      decode: tokens to text.
      step: that the batch was for.
      batch: arrays int32[B, L].
      rows: int[n], those at fault; none where that is not known.
    """
    path = folder / "nonfinite" / f"step_{step}.txt"
    if processes.is_first():
        make_folder(path.parent)
        shown = rows if len(rows) else range(len(batch["decoder_target_tokens"]))
        with replacing(path) as draft:
            draft.write_text(
                "\n".join(row_text(batch, int(row), decode) for row in shown), encoding="utf-8"
            )
    return f"The examples are in {path}"
