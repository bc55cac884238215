"""`recalign train`."""

import click

from recalign.cli.options import TEXT, data_dir_option, gin_options, multiprocess_options
from recalign.engine import preemption
from recalign.errors import UserError
from recalign.files import locate


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="\b\n"
    "Examples:\n"
    "  recalign train --gin_file=toyshop.gin --gin.MODEL_DIR=runs/toyshop\n"
    "  recalign train --gin_file=models/flan_t5_base.gin --gin_file=runs/train.gin \\\n"
    "      --gin.MIXTURE_OR_TASK_NAME=my_shop_aligned --gin.MODEL_DIR=runs/my_shop \\\n"
    "      --gin.TASK_FEATURE_LENGTHS=\"{'inputs': 512, 'targets': 128}\" --gin.TRAIN_STEPS=20000\n"
    "  recalign train --dry_run --topology=v5e:2x4 --explain --gin_file=beauty.gin",
)
@click.option(
    "--seqio_additional_cache_dirs",
    default="",
    metavar="DIR,DIR",
    help="Where `seqio_cache_tasks` wrote the tasks, for --gin.USE_CACHED_TASKS=True.",
)
@gin_options(required=True)
@data_dir_option
@click.option(
    "--dry_run",
    is_flag=True,
    help="Only compile the step and a search, and print the memory and arithmetic that they take. "
    "Needs no data.",
)
@click.option(
    "--topology",
    type=TEXT,
    metavar="T",
    help="With --dry_run: compile for these devices, which need not be here: cpu:8, or a TPU slice "
    "such as v5e:2x4 if libtpu is installed.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="With --dry_run: list every exchange between devices with its bytes, and the largest "
    "temporaries.",
)
@click.option(
    "--accept_changes",
    is_flag=True,
    help="Go on in MODEL_DIR although the run in it began with another configuration; where the "
    "position in the input does not fit, the input starts anew.",
)
@click.option(
    "--profile",
    metavar="FIRST:COUNT",
    help="Write a trace of COUNT steps from step FIRST on into MODEL_DIR, for TensorBoard's "
    "profiler or Perfetto.",
)
@preemption.listening()
@multiprocess_options
def train(
    configure,
    seqio_additional_cache_dirs: str,
    dry_run: bool,
    topology: str | None,
    explain: bool,
    accept_changes: bool,
    profile: str | None,
) -> str:
    """Trains, checkpoints and evaluates a recipe.

    Called again with the same MODEL_DIR, it goes on where it stopped. MODEL_DIR receives config.gin
    (every value in use), checkpoints/, TensorBoard events, metrics.jsonl, metrics.json, result.json
    and report.html, the page of `recalign report`. The model is evaluated on validation every
    EVAL_PERIOD steps. At the end the checkpoint that is best there, by BEST_METRIC, is evaluated on
    test.
    """
    steps = _steps(profile) if profile else range(0)
    if dry_run:
        if profile or accept_changes:
            idle = "profile" if profile else "accept_changes"
            raise UserError(f"--{idle} is about training, and --dry_run trains nothing")
        return _dry_run(configure, topology, explain)
    if topology or explain:
        raise UserError(f"--{'topology' if topology else 'explain'} is for --dry_run")

    from recalign.engine import processes
    from recalign.runs import report, run

    folders = tuple(folder for folder in seqio_additional_cache_dirs.split(",") if folder)
    configure(*[f"CACHE_DIRS={folders!r}"] if folders else [])
    made = run.make()
    text = str(made.report("test", made.train(accept_changes, steps)))
    if processes.is_first():
        folder = locate(made.model_dir)
        report.write_in(folder, [folder])
    return text


def _steps(profile: str) -> range:
    first, colon, count = profile.partition(":")
    if not (colon and first.isdecimal() and count.isdecimal() and int(first) and int(count)):
        raise UserError(f"--profile is {profile!r}, but must be FIRST:COUNT, such as 10:5")
    return range(int(first), int(first) + int(count))


def _dry_run(configure, topology: str | None, explained: bool) -> str:
    from recalign.engine.training.dry_run import use_topology

    devices = use_topology(topology) if topology else None

    import gin

    from recalign.runs import run

    # What a step's size does not depend on need not be chosen.
    try:
        configure("MODEL_DIR=none", "TRAIN_STEPS=1")
    except UserError:
        configure("MODEL_DIR=none", "MIXTURE_OR_TASK_NAME=none", "TRAIN_STEPS=1")
    if devices:
        # Gin copies what is bound, which a function survives and a device does not.
        gin.bind_parameter("partitioning.Partitioner.devices", lambda: devices)
    return run.make().dry_run(explained)
