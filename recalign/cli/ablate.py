"""`recalign ablate`: a recipe and its variations over several seeds."""

from pathlib import Path

import click

from recalign.cli.options import (
    TEXT,
    data_dir_option,
    gin_options,
    output_option,
    parse_names,
    parse_seeds,
    split_option,
)
from recalign.engine import preemption


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
    type=TEXT,
    show_default=True,
    metavar="NAME,NAME",
    help="Files ablations/NAME.gin, included after the recipe; `recipe` is the recipe as it is.",
)
@click.option("--seeds", default="0,1,2", show_default=True, metavar="N,N")
@output_option("The folder of the runs.", folder=True, buckets=True)
@split_option(
    "validation",
    "What the table is of. Decide on validation; test is looked at once, at the end.",
)
@click.option(
    "--domains",
    type=TEXT,
    metavar="NAME,NAME",
    help="Train on each of these instead of the recipe's own domain, a table each.",
)
@data_dir_option
@preemption.listening()
def ablate(
    configure, ablations: str, seeds: str, output: Path, split: str, domains: str | None
) -> None:
    """Trains variations of a recipe and prints a table of their metrics on validation.

    Each is trained with each seed, in OUTPUT/NAME/seed_N, or OUTPUT/DOMAIN/NAME/seed_N; the table
    has means and standard deviations, of the checkpoints that validation chose. A run that has
    ended leaves a result.json: called again, this goes on where it stopped, and in the end it only
    prints. report.html, beside the folders of the runs, shows them together.
    """
    numbers = parse_seeds(seeds)

    from recalign.runs import ablations as variations
    from recalign.runs import report

    names = variations.list_ablations() if ablations == "all" else parse_names(ablations)
    chosen = parse_names(domains) if domains else [None]
    folders = {domain: output / domain if domain else output for domain in chosen}
    for domain, folder in folders.items():
        variations.check(configure, names, numbers[0], folder, domain)
    for domain, folder in folders.items():
        found = variations.run(configure, names, numbers, folder, split, domain)
        click.echo((f"{domain}\n\n" if domain else "") + variations.format_table(found, split))
        runs = [variations.run_folder(folder, name, seed) for name in names for seed in numbers]
        report.write_in(folder, runs)
