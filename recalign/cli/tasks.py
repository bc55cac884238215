"""`recalign tasks`."""

import click

from recalign.cli.options import TEXT, data_dir_option, gin_options


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="\b\n"
    "Examples:\n"
    "  recalign tasks\n"
    "  recalign tasks toyshop_aligned --examples 3\n"
    "  recalign tasks beauty_mim --examples 3 --gin.item_texts.history_form=title",
)
@click.argument("name", required=False)
@click.option(
    "--examples",
    default=0,
    type=click.IntRange(min=0),
    metavar="N",
    help="Show N samples of the task or mixture.",
)
@click.option(
    "--split",
    default="train",
    show_default=True,
    type=click.Choice(["train", "validation", "test"]),
)
@click.option(
    "--seed",
    default=0,
    type=click.IntRange(min=0),
    show_default=True,
    help="Of masks, negatives and paraphrases.",
)
@click.option(
    "--module",
    default="recalign.tasks",
    type=TEXT,
    show_default=True,
    help="The module that registers the tasks.",
)
@gin_options(required=False)
@data_dir_option
def tasks(name: str | None, examples: int, split: str, seed: int, module: str, configure) -> None:
    """Lists tasks and mixtures, or shows the samples of one as the model sees them.

    With NAME, tells how long its samples are against TASK_FEATURE_LENGTHS (of the recipe or an
    override, or else 512 and 128), and which share is longer and so loses its oldest items. Recipes
    and overrides decide how items are written; see `recalign train --help`.
    """
    from recalign.samples import inputs, inspection

    inputs.import_tasks(module, "--module")
    configure(
        first=["runs/tasks.gin"], unneeded=["MODEL_DIR", "MIXTURE_OR_TASK_NAME", "TRAIN_STEPS"]
    )
    if name is None:
        for provider, members in inspection.list_registered().items():
            is_mixture = members != [provider]
            click.echo(provider + (f"  = {' + '.join(members)}" if is_mixture else ""))
        return
    provider = inputs.mixture_or_task(name)
    lengths = inspection.feature_lengths()
    inputs.check_samples(provider, lengths, split)
    shown = inspection.samples(provider, lengths, split, seed)
    for _, sample in zip(range(examples), shown, strict=False):
        click.echo(f"inputs  ({sample.inputs_tokens} tokens): {sample.inputs}")
        told = f", of which {sample.given} is given" if sample.given else ""
        click.echo(f"targets ({sample.targets_tokens} tokens{told}): {sample.targets}\n")
    for feature, found in inspection.measure(provider, lengths, split, seed).items():
        click.echo(
            f"{feature}: {found.mean:.1f} tokens on average, 95 % up to {found.p95:.0f}, longest "
            f"{found.longest}; limit {found.limit}, {found.shortened:.1%} are longer"
        )
