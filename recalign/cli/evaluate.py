"""`recalign eval` and `recalign infer`: what a trained run says of a split."""

from pathlib import Path

import click

from recalign.cli.options import data_dir_option, model_dir_option, multiprocess_options

_split = click.option(
    "--split", default="test", show_default=True, type=click.Choice(["validation", "test"])
)


@click.command("eval")
@model_dir_option
@_split
@click.option(
    "--beam_recall",
    "--beam-recall",
    type=click.IntRange(min=1),
    metavar="N",
    help="Instead, how many of the exactly best items the beam finds, on the first N examples.",
)
@data_dir_option
@multiprocess_options
def evaluate(model_dir: str, split: str, beam_recall: int | None) -> str:
    """Prints all metrics of a run on a split, beside the baselines.

    The newest checkpoint is evaluated, as the run's config.gin says; metrics.json and metrics.jsonl
    of the run receive the numbers.
    """
    from recalign import runs
    from recalign.evaluation import report

    run = runs.load(model_dir)
    if beam_recall is None:
        return report.format_tables(run.evaluate(split))
    found = run.beam_recall(split, beam_recall)
    return "\n".join(f"{name} {value:.4f}" for name, value in found.items())


@click.command()
@model_dir_option
@_split
@click.option("--output", required=True, type=click.Path(path_type=Path), help="A .jsonl file.")
@data_dir_option
def infer(model_dir: str, split: str, output: Path) -> None:
    """Writes the ranked items of every example of a split.

    One JSON line an example, in the order of the split: `history` and `target` as the source's item
    ids, `items` best first, and `scores`, their log-probabilities.
    """
    from recalign import runs

    count = runs.load(model_dir).predict(split, output)
    click.echo(f"{count} predictions written to {output}")
