"""`recalign add-items`: items that a trained run has never seen."""

from pathlib import Path

import click

from recalign.cli.options import SOURCE, TEXT, data_dir_option, model_dir_option, modules_option
from recalign.errors import UserError


@click.command(
    "add-items",
    epilog="\b\n"
    "Examples:\n"
    "  recalign add-items --model_dir runs/beauty --items new.parquet\n"
    "  recalign add-items --model_dir runs/beauty --undo",
)
@model_dir_option
@modules_option
@click.option(
    "--items",
    type=SOURCE,
    metavar="FILE",
    help="One row an item, in any format of `recalign prepare table`: item_id, title, brand, "
    "categories, or common other names of these.",
)
@click.option("--domain", type=TEXT, metavar="NAME", help="Needed if the run has several.")
@click.option("--undo", is_flag=True, help="Take back all items that were added.")
@data_dir_option
def add_items(
    model_dir: str, modules: tuple[str, ...], items: Path | None, domain: str | None, undo: bool
) -> None:
    """Adds items to the catalogue of a run; nothing is trained.

    Their ids are the codes of the items that their texts are nearest to, or the next numbers where
    ids are digits. `recommend`, `serve` and `infer` know them at once, and score all other items as
    before; `eval` and `train` go on with the catalogue that the run began with.
    """
    if (items is None) != undo:
        raise UserError("add which items? Give either --items FILE or --undo")

    from recalign.domains.readers import table
    from recalign.runs import added_items
    from recalign.runs.run import load

    if undo:
        added_items.remove(model_dir)
        click.echo(f"{model_dir}: the catalogue is that which it was trained on")
        return
    found = table.read_items(items)
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    grown = added_items.add(load(model_dir, modules=modules), found.items, domain)
    for key, text in [*zip(grown.items["key"], grown.item_ids, strict=True)][-len(found.items) :]:
        click.echo(f"{key} {text}")
    click.echo(
        f"{len(found.items):,} items added to {grown.num_items - len(found.items):,} of "
        f"{grown.name} (recalign add-items --model_dir {model_dir} --undo takes them back)"
    )
