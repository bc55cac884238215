"""`recalign cache`: all that a recipe reads, in tokens."""

import shlex
from pathlib import Path

import click

from recalign.cli.options import data_dir_option, gin_options, output_option

COMMAND = "# recalign train --gin_file=…/train.gin --gin.MODEL_DIR=…\n"
READS_TOKENS = """\
from recalign.runs import run
from recalign.tokens import data
MODEL_DIR = %gin.REQUIRED
TOKENS_DIR = %RECIPE_DIR
run.Run.data = @data.TokenData()
data.TokenData.directory = %TOKENS_DIR
data.TokenData.batch_size = %BATCH_SIZE
data.TokenData.seed = %RANDOM_SEED
"""


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="\b\n"
    "Examples:\n"
    "  recalign cache --gin_file=beauty.gin --output tokens/beauty\n"
    "  recalign train --gin_file=tokens/beauty/train.gin --gin.MODEL_DIR=runs/beauty",
)
@gin_options(required=True)
@data_dir_option
@output_option("A new folder.", folder=True)
def cache(configure, output: Path) -> None:
    """Writes what a recipe trains on and is judged by, in tokens.

    The folder holds the batches of TRAIN_STEPS steps, the examples of validation and test, and
    train.gin, the recipe that reads them: the same training, number for number, on a machine that
    needs no TensorFlow. A longer training passes over the rows again, in another order each time.
    """
    configure("MODEL_DIR=none")

    from recalign.runs import configuration, run
    from recalign.tokens import writing

    found = run.make()
    recipe = COMMAND + configuration.recipe_without("recalign.samples", READS_TOKENS)
    rows = writing.write(found.data, found.total_steps, found.eval_examples, recipe, output)
    recipe = shlex.quote(f"--gin_file={output}/train.gin")
    click.echo(f"{rows} rows written; train with: recalign train {recipe} …")
