"""`recalign report`: a page about runs."""

from pathlib import Path

import click

from recalign.cli.options import SOURCE, data_dir_option, output_option


@click.command(
    epilog="\b\n"
    "Examples:\n"
    "  recalign report runs/toyshop --output report.html\n"
    "  recalign report runs/one runs/other --output compared.html"
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=SOURCE)
@output_option("The .html file.")
@data_dir_option
def report(runs: tuple[Path, ...], output: Path) -> None:
    """Writes one page about one or several runs, for people to look at.

    What was trained on what and by which command, curves, every metric beside baselines and what
    was published, each protocol in a table of its own, how far probabilities hold, and a few
    answers. The page needs no network and runs no script. It is made of what the folders of the
    runs hold, of which nothing is changed; `train` and `ablate` write it too.
    """
    from recalign.runs.report import write

    for problem in write(runs, output):
        click.echo(f"not shown: {problem}", err=True)
    click.echo(f"{output}: {len(runs)} run{'s' * (len(runs) > 1)}")
