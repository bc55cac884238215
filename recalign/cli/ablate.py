"""`recalign ablate`: a recipe and its variations over several seeds."""

from pathlib import Path

import click

from recalign.cli.options import data_dir_option, gin_options
from recalign.engine import preemption
from recalign.errors import UserError


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="\b\n"
    "Examples:\n"
    "  recalign ablate --gin_file=toyshop.gin --output runs/ablations\n"
    "  recalign ablate --gin_file=toyshop.gin --ablations recipe,no_mim,ids --seeds 0,1,2 \\\n"
    "      --gin.TRAIN_STEPS=600 --output runs/ablations",
)
@gin_options(required=True)
@click.option(
    "--ablations",
    default="all",
    show_default=True,
    metavar="NAME,NAME",
    help="Files ablations/NAME.gin, included after the recipe; `recipe` is the recipe as it is.",
)
@click.option("--seeds", default="0,1,2", show_default=True, metavar="N,N")
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="The folder of the runs."
)
@data_dir_option
@preemption.listening()
def ablate(configure, ablations: str, seeds: str, output: Path) -> None:
    """Trains variations of a recipe and prints a table of their metrics on test.

    Each is trained with each seed, in OUTPUT/NAME/seed_N; the table has means and standard
    deviations. Called again, it goes on where it stopped.
    """
    numbers = _numbers(seeds)

    from recalign.runs import ablations as variations

    names = variations.known() if ablations == "all" else list(dict.fromkeys(ablations.split(",")))
    found = dict(variations.run(configure, names, numbers, output))
    click.echo(variations.format_table(found))


def _numbers(seeds: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(seed) for seed in seeds.split(",")))
    except ValueError as error:
        raise UserError(f"--seeds is {seeds!r}, but must be whole numbers: 0,1,2") from error
