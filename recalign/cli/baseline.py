"""`recalign baseline`: conventional recommenders, judged as a model is."""

from pathlib import Path

import click

from recalign.cli.options import (
    TEXT,
    data_dir_option,
    output_option,
    parse_names,
    parse_seeds,
    split_option,
)


@click.command(
    epilog="\b\n"
    "Examples:\n"
    "  recalign baseline --name all --domain toyshop\n"
    "  recalign baseline --name sasrec,bpr --domain beauty --output beauty.json\n"
    "  recalign baseline --name sasrec --domain beauty --seeds 0,1,2"
)
@click.option(
    "--name",
    "names",
    multiple=True,
    type=TEXT,
    default=["all"],
    show_default=True,
    metavar="NAME,NAME",
    help="popularity, cooccurrence, bpr, ease, slit, tale, sasrec, sasrec_prefixes, bsarec; with "
    "ratings also global_mean, user_mean, item_mean, biased_mf; or all. May be given several "
    "times.",
)
@click.option("--domain", required=True, type=TEXT, help="A prepared domain.")
@split_option()
@click.option(
    "--seeds",
    "--seed",
    default="0",
    show_default=True,
    metavar="N,N",
    help="Of what is random in a baseline; of several, a row is the mean.",
)
@output_option(
    'A JSON file that receives the numbers as "DOMAIN/NAME/SPLIT/PROTOCOL/METRIC", and as '
    '"DOMAIN/NAME/SPLIT/seconds" how long a fit took.',
    required=False,
)
@data_dir_option
def baseline(
    names: tuple[str, ...], domain: str, split: str, seeds: str, output: Path | None
) -> None:
    """Fits baselines to a domain and prints their metrics on a split.

    The whole catalogue is ranked, with and without the items of the history, and so are the stored
    candidate lists, the same for every model. Where the domain has ratings, they are predicted too.
    Baselines learn from train interactions; those that have something to choose choose it on
    validation. In brackets stand 95 % bootstrap intervals over users. Fitted models are kept in the
    domain's folder, under baselines/, and read when they are asked for again.
    """
    numbers = parse_seeds(seeds)

    from recalign import domains
    from recalign.evaluation import report
    from recalign.evaluation.baselines import rows as baselines

    named = parse_names(",".join(names))
    chosen = () if "all" in named else tuple(named)
    loaded = domains.load(domain)
    for name in named:
        if name != "all":
            baselines.check(loaded, name)
    rows = baselines.domain_rows(loaded, split, chosen, numbers)
    table = {label: row.metrics() for label, row in rows.items()}
    if output:
        report.write_metrics(
            output,
            {
                key: value
                for label, found in table.items()
                for key, value in report.add_prefix(
                    found | {"seconds": rows[label].seconds}, f"{domain}/{label}", split
                ).items()
            },
        )
    seconds = ", ".join(f"{label} {row.seconds:.1f}" for label, row in rows.items())
    click.echo(f"{report.format_tables(table)}\n\nseconds to fit: {seconds}")
