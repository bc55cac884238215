"""`recalign eval` and `recalign infer`: what a trained run says of a split."""

from pathlib import Path

import click

from recalign.cli.options import data_dir_option, multiprocess_options

_model_dir = click.option(
    "--model_dir", "--model-dir", required=True, metavar="DIR", help="The folder of a run."
)
_split = click.option(
    "--split", default="test", show_default=True, type=click.Choice(["validation", "test"])
)


@click.command("eval")
@_model_dir
@_split
@data_dir_option
@multiprocess_options
def evaluate(model_dir: str, split: str) -> str:
    """Prints all metrics of a run on a split, beside the baselines.

    The newest checkpoint is evaluated, as the run's config.gin says; metrics.json and metrics.jsonl
    of the run receive the numbers.
    """
    from recalign import runs
    from recalign.evaluation import report

    return report.format_report(runs.load(model_dir).evaluate(split))


@click.command()
@_model_dir
@_split
@click.option("--task", metavar="TASK", help="One of the run's; needed if it has several.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="A .jsonl file.")
@data_dir_option
def infer(model_dir: str, split: str, task: str | None, output: Path) -> None:
    """Writes the predictions for every example of a split.

    One JSON line an example, with the source's item ids. Retrieval and ranking, in the order of the
    split: `history`, `target`, `items` best first (of the catalogue, or the candidates), and
    `scores`, their log-probabilities. Rating, by user and item: `history` and `history_ratings`,
    `item`, `rating`, `answer` (the text), `written` (the number it is, or null) and `expected`.
    """
    from recalign import runs

    count = runs.load(model_dir).predict(split, output, task)
    click.echo(f"{count} predictions written to {output}")
