"""`recalign inspect`: what the folder of a run holds."""

from pathlib import Path

import click

from recalign.cli.options import SOURCE


@click.command(epilog="\b\nExample:\n  recalign inspect runs/toyshop")
@click.argument("run", type=SOURCE)
@click.option(
    "--verify",
    is_flag=True,
    help="Also read every file of the checkpoints and compare its hash, which takes longer.",
)
def inspect(run: Path, verify: bool) -> None:
    """Tells what RUN, the folder of a run, is: at once, and without changing anything.

    Its recipe and command, what it was trained on, how far it came, its best step, checkpoints and
    their sizes, whether a process trains in it, whether its files are whole, and the last metrics.
    """
    from recalign.runs import inspection

    click.echo(inspection.inspect(run, verify))
