"""`recalign cache`: all that a recipe reads, in tokens."""

from pathlib import Path

import click

from recalign.cli.options import data_dir_option, gin_options


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="\b\n"
    "Examples:\n"
    "  recalign cache --gin_file=beauty.gin --output tokens/beauty\n"
    "  recalign train --gin_file=tokens/beauty/train.gin --gin.MODEL_DIR=runs/beauty",
)
@gin_options(required=True)
@data_dir_option
@click.option("--output", required=True, type=click.Path(path_type=Path), help="A new folder.")
def cache(configure, output: Path) -> None:
    """Writes what a recipe trains on and is judged by, in tokens.

    The folder holds the batches of TRAIN_STEPS steps, the examples of validation and test, and
    train.gin, the recipe that reads them: the same training, number for number, on a machine that
    needs no TensorFlow. A longer training passes over the rows again, in another order each time.
    """
    configure("MODEL_DIR=none")

    import gin

    from recalign.runs import run as runs
    from recalign.tokens import writing as writer

    name, module = (
        gin.query_parameter(f"%{macro}")
        for macro in ("MIXTURE_OR_TASK_NAME", "MIXTURE_OR_TASK_MODULE")
    )
    rows = writer.write(gin.get_configurable(runs.Run)(), name, module, output)
    click.echo(f"{rows} rows written; train with: recalign train --gin_file={output}/train.gin …")
