"""`recalign train`."""

import click

from recalign.cli.options import data_dir_option, gin_options, multiprocess_options


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="\b\n"
    "Examples:\n"
    "  recalign train --gin_file=toyshop.gin --gin.MODEL_DIR=runs/toyshop\n"
    "  recalign train --gin_file=models/flan_t5_base.gin --gin_file=runs/train.gin \\\n"
    "      --gin.MIXTURE_OR_TASK_NAME=my_shop_aligned --gin.MODEL_DIR=runs/my_shop \\\n"
    "      --gin.TASK_FEATURE_LENGTHS=\"{'inputs': 512, 'targets': 128}\" --gin.TRAIN_STEPS=20000",
)
@gin_options(required=True)
@data_dir_option
@multiprocess_options
def train(configure) -> str:
    """Trains, checkpoints and evaluates a recipe.

    Called again with the same MODEL_DIR, it goes on where it stopped. MODEL_DIR receives config.gin
    (every value in use), checkpoints/, TensorBoard events, metrics.jsonl and metrics.json. The
    model is evaluated on validation every EVAL_PERIOD steps and at the end on test.
    """
    import gin

    from recalign import runs
    from recalign.evaluation import report

    configure()
    return report.format_tables(gin.get_configurable(runs.Run)().train())
