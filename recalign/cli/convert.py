"""`recalign convert`: checkpoints between formats."""

import math
from pathlib import Path

import click

from recalign.cli.options import output_folder


def _destination(context: click.Context, argument: click.Parameter, value: str) -> str:
    if "://" not in value:
        output_folder(context, argument, Path(value))
    return value


@click.command()
@click.argument("source")
@click.argument("destination", callback=_destination)
@click.option(
    "--to", required=True, type=click.Choice(["hf", "t5x", "orbax"]), help="The format to write."
)
@click.option(
    "--vocab_size",
    "--vocab-size",
    type=int,
    help="32100 or 32128: cut off or add the padding rows of T5's vocabulary.",
)
def convert(source: str, destination: str, to: str, vocab_size: int | None) -> None:
    """Writes the parameters of SOURCE to DESTINATION in another format.

    SOURCE is a checkpoint of T5X, a folder of Hugging Face's transformers (config.json and
    safetensors), an Orbax checkpoint or the folder of a run, of which the newest checkpoint is
    taken; its format and architecture are recognised. DESTINATION is a folder that is empty or
    does not exist. Both may be in a bucket (gs://…). Values stay the same bit by bit.
    """
    from recalign.engine.weights.conversion import convert as write

    weights = write(source, destination, to, vocab_size)
    parameters = sum(math.prod(tensor.shape) for tensor in weights.tensors.values())
    click.echo(f"{destination}: {parameters:,} parameters of {weights.path}, as {to}")
    for name, value in weights.config.items():
        click.echo(f"  {name} = {value}")
