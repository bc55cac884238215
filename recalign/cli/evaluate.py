"""`recalign eval` and `recalign infer`: what a trained run says of a split."""

from pathlib import Path

import click

from recalign.cli.options import (
    TEXT,
    data_dir_option,
    multiprocess_options,
    output_option,
    parse_names,
    run_options,
    split_option,
    task_option,
)
from recalign.engine import preemption
from recalign.errors import UserError


@click.command("eval")
@run_options
@split_option()
@click.option(
    "--beam_recall",
    "--beam-recall",
    type=click.IntRange(min=1),
    metavar="N",
    help="Instead, how many of the exactly best items the beam finds, on the first N examples.",
)
@click.option("--task", type=TEXT, metavar="TASK", help="For --beam_recall: one of the run's.")
@click.option(
    "--with",
    "together_with",
    type=TEXT,
    metavar="RUN|BASELINE,…",
    help="Rank also by the sum of the run's scores and of these, standardised, over the whole "
    "catalogue: folders of other runs, at the step that validation chose, or baselines (names as "
    "in `recalign baseline`). Weights are chosen on validation, which flatters the sum there.",
)
@click.option(
    "--against",
    type=TEXT,
    metavar="RUN|BASELINE",
    help="The folder of another run, at the step that validation chose, or a baseline: prints what "
    "this run is ahead by, user by user.",
)
@output_option(
    'A JSON file that receives all rows as "TASK/ROW/SPLIT/PROTOCOL/METRIC".', required=False
)
@data_dir_option
@preemption.listening()
@multiprocess_options
def evaluate(
    load_run,
    split: str,
    beam_recall: int | None,
    task: str | None,
    together_with: str | None,
    against: str | None,
    output: Path | None,
) -> str:
    """Prints all metrics of a run on a split, beside the baselines.

    It is evaluated as its config.gin says; its metrics.json and metrics.jsonl receive the numbers.
    In brackets stand 95 % bootstrap intervals over users.
    """
    if beam_recall is not None and (together_with or against or output):
        raise UserError("--beam_recall is asked alone: without --with, --against and --output")

    if task and beam_recall is None:
        raise UserError("--task is for --beam_recall: all tasks are evaluated")

    from recalign.engine import processes
    from recalign.evaluation.report import write_metrics
    from recalign.runs.comparison import is_run

    run = load_run()
    if beam_recall is None:
        names = parse_names(together_with) if together_with else []
        together = [load_run(name) if is_run(name) else name for name in names]
        report = run.evaluate(split, together, against)
        if output and processes.is_first():
            write_metrics(output, report.flat())
        return str(report)
    examples = run.retrieval_examples(split, beam_recall, task)
    found = run.evaluation.beam_recall(run.restore()[1], examples)
    return "\n".join(f"{name} {value:.4f}" for name, value in found.items())


@click.command()
@run_options
@split_option()
@task_option
@output_option("A .jsonl file.")
@data_dir_option
@preemption.listening()
@multiprocess_options
def infer(load_run, split: str, task: str | None, output: Path) -> str:
    """Writes the predictions for every example of a split.

    One JSON line an example, with the source's item ids. Retrieval and ranking, in the order of the
    split: `history`, `target`, `items` best first (of the catalogue, or the candidates), and
    `scores`, their log-probabilities. Rating, by user and item: `history` and `history_ratings`,
    `item`, `rating`, `answer` (the text), `written` (the number it is, or null) and `expected`.
    """
    from recalign.runs.added_items import with_added_items

    count = with_added_items(load_run()).predict(split, output, task)
    return f"{count} predictions written to {output}"
