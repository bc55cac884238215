"""`recalign convert`: checkpoints between formats."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recalign.cli.options import SOURCE, TEXT, data_dir_option, modules_option, output_folder
from recalign.errors import UserError
from recalign.files import in_bucket, locate, read_bytes, resolve

if TYPE_CHECKING:
    from recalign.engine.weights.conversion import Weights
    from recalign.engine.weights.growth import NewTokens


def _destination(context: click.Context, argument: click.Parameter, value: str) -> str:
    if not in_bucket(value):
        output_folder(context, argument, locate(value))
    return value


@click.command(
    epilog="\b\n"
    "Examples:\n"
    "  recalign convert runs/my_shop my_shop_t5 --to hf\n"
    "  recalign convert flan_t5_base_t5x flan_t5_base --to hf --vocabulary spiece.model\n"
    "  recalign convert flan_t5_base_t5x grown/checkpoint_0 --to t5x --item_tokens beauty"
)
@click.argument("source", type=TEXT)
@click.argument("destination", type=TEXT, callback=_destination)
@click.option(
    "--to", required=True, type=click.Choice(["hf", "t5x", "orbax"]), help="The format to write."
)
@click.option(
    "--vocab_size",
    "--vocab-size",
    type=int,
    help="32100 or 32128: cut off or add the padding rows of T5's vocabulary. With --item_tokens, "
    "as many rows as the network will have.",
)
@click.option(
    "--vocabulary",
    type=SOURCE,
    metavar="FILE",
    help="With --to hf: a SentencePiece model to write beside the parameters. That of a run or of "
    "a folder of transformers is found without.",
)
@click.option(
    "--item_tokens",
    "--item-tokens",
    type=TEXT,
    metavar="NAME",
    help="Add rows for the tokens that the vocabulary of this prepared domain was extended by, as "
    "training does; T5X reads only checkpoints that have them.",
)
@modules_option
@data_dir_option
def convert(
    source: str,
    destination: str,
    to: str,
    vocab_size: int | None,
    vocabulary: Path | None,
    item_tokens: str | None,
    modules: tuple[str, ...],
) -> None:
    """Writes the parameters of SOURCE to DESTINATION in another format.

    SOURCE is a checkpoint of T5X, a folder of Hugging Face's transformers (config.json and
    safetensors), an Orbax checkpoint or the folder of a run, of which the newest checkpoint is
    taken; its format and architecture are recognised. DESTINATION is a folder that is empty or
    does not exist; T5X reads one only by a name like checkpoint_0. Both may be in a bucket
    (gs://…). Values stay the same bit by bit. A folder for transformers holds the vocabulary as
    well, so that it needs nothing else.
    """
    from recalign.engine.weights.conversion import convert as write
    from recalign.engine.weights.growth import rows_for

    if vocabulary and to != "hf":
        raise UserError(f"--vocabulary is for --to hf: the format {to} has no place for one")
    if vocabulary and item_tokens:
        raise UserError("--item_tokens has the vocabulary of its domain: leave out --vocabulary")

    new = None
    if item_tokens:
        new, own = _new_tokens(item_tokens)
        vocab_size = vocab_size or rows_for(new.first, len(new))

    def find_vocabulary(weights: "Weights") -> bytes | None:
        if item_tokens:
            return own if to == "hf" else None
        if vocabulary:
            return read_bytes(vocabulary)
        return _vocabulary_of(weights, modules) if to == "hf" else None

    weights = write(source, destination, to, vocab_size, find_vocabulary, new)
    parameters = sum(math.prod(tensor.shape) for tensor in weights.tensors.values())
    click.echo(f"{destination}: {parameters:,} parameters of {weights.path}, as {to}")
    for name, value in weights.config.items():
        click.echo(f"  {name} = {value}")


def _new_tokens(domain: str) -> "tuple[NewTokens, bytes]":
    """The tokens that the vocabulary of a prepared domain was extended by, and that vocabulary."""
    from recalign import domains
    from recalign.domains.vocabulary import FILE_NAME
    from recalign.runs.item_tokens import ItemTokens, new_tokens

    found = domains.load(domain)
    path = found.path / FILE_NAME
    if not found.statistics["options"].get("item_tokens"):
        raise UserError(f"domain {domain!r} was not prepared with --item_tokens: no row is new")
    vocabulary = path.read_bytes()
    return new_tokens(vocabulary, [found], ItemTokens()), vocabulary


def _vocabulary_of(weights: "Weights", modules: Sequence[str]) -> bytes | None:
    """The vocabulary of the run that a checkpoint is of; where there is none, that is told."""
    from recalign.engine.training.checkpoints import read_provenance
    from recalign.runs.directory import CONFIG

    if weights.has_vocabulary:
        return None  # it is copied
    checkpoint = resolve(weights.path)
    run = next((path for path in checkpoint.parents[:3] if (path / CONFIG).exists()), None)
    advice = "no vocabulary is written beside the parameters: give it as --vocabulary FILE"
    if run is None:
        click.echo(advice, err=True)
        return None

    from recalign.runs.run import load

    try:
        data = load(str(run), modules=modules).data
        now, then = data.provenance()["vocabulary"], read_provenance(checkpoint).get("vocabulary")
        if now != then:
            raise UserError(f"the domain has another vocabulary, {now}, than the run, {then}")
        return data.vocabulary()
    except UserError as error:
        click.echo(f"{advice} ({error})", err=True)
        return None
