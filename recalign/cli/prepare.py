"""`recalign prepare`: from a source to a prepared domain.

Only click is imported here; readers and writers are imported by the commands that use them.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from recalign.cli.options import LOCAL_SOURCE, SOURCE, TEXT, combine, data_dir_option
from recalign.cli.summary import summarise
from recalign.errors import UserError

# Those that are columns of the item table.
ITEM_ROLES = ("title", "brand", "categories", "catalogue_item")
ROLES = {
    "user": "user id",
    "item": "item id",
    "timestamp": "time of the event (a number, or an ISO 8601 date)",
    "rating": "rating",
    "title": "item title",
    "brand": "item brand",
    "categories": "item categories",
}


def _option(name: str, **settings: Any) -> Callable:
    """An option that may be spelled with underscores or hyphens; the given spelling comes first."""
    word = name.removeprefix("--")
    spellings = (word, word.replace("-", "_"), word.replace("_", "-"))
    return click.option(*dict.fromkeys(f"--{spelling}" for spelling in spellings), **settings)


def _column_options(kind: str) -> Callable:
    """--user-KIND … --categories-KIND, as parameters user_KIND …."""
    texts = {role: f"Column of the {text}." for role, text in ROLES.items()}
    texts["catalogue_item"] = "Column of the item id in the item table, if it differs."
    return combine(
        *(
            _option(f"--{role.replace('_', '-')}-{kind}", type=TEXT, metavar="COLUMN", help=text)
            for role, text in texts.items()
        )
    )


def _parse_sizes(
    context: click.Context, option: click.Parameter, text: str | None
) -> tuple[int, int] | None:
    """Levels and codes of "3x256"; at most 20 levels, each a letter's."""
    if text is None:
        return None
    levels, _, number = text.partition("x")
    if not (levels.isdecimal() and number.isdecimal() and 1 <= int(levels) <= 20 and int(number)):
        raise click.BadParameter(f"{text!r} is not LEVELSxCODES, such as 3x256", context, option)
    return int(levels), int(number)


_beam_options = combine(
    _option(
        "--beam",
        is_flag=True,
        help="Prepare more interactions than memory holds, by Apache Beam. They should be in "
        "files of some hundred MB, each read by one worker. The domain is the same.",
    ),
    _option(
        "--beam_pipeline_options",
        metavar="NAME=VALUE,…",
        help="Options of Beam: runner=FlinkRunner, …; temp_location=gs://… is the folder that "
        "workers on several machines share.  [default: the DirectRunner]",
    ),
)


def _common(name: str | None = None, vocab_size: int | None = None) -> Callable:
    """The options that every domain has."""
    options = [
        _option(
            "--name",
            # Click takes a default of None for one.
            **({"required": True} if name is None else {"default": name, "show_default": True}),
            help="Name of the domain: lower-case letters, digits and underscores. Tasks are named "
            "after it (NAME_retrieval, …).",
        ),
        _option(
            "--k_core",
            type=click.IntRange(min=1),
            metavar="N",
            help="Drop users and items with fewer than N events until none is left to drop.",
        ),
        _option(
            "--seed",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Seed of the item ids, a random permutation of the catalogue"
            + (", and of the shop itself." if name else "."),
        ),
        data_dir_option,
        _option(
            "--vocabulary",
            type=TEXT,
            metavar="PATH",
            help="Copy this SentencePiece model, local or in a bucket, into the domain instead of "
            "using T5's.",
        ),
        _option(
            "--vocab_size",
            type=click.IntRange(min=1),
            metavar="N",
            help="Train a SentencePiece model of N pieces on the item texts and the prompts; every "
            "item's id is one piece more." + (f"  [default: {vocab_size}]" if vocab_size else ""),
        ),
        _option(
            "--item_tokens",
            is_flag=True,
            help="Extend T5's vocabulary, or the one that --vocabulary names, by the tokens that "
            "ids are written in.",
        ),
        _option(
            "--item_ids",
            type=click.Choice(["random", "pq", "rkmeans"]),
            default="random",
            show_default=True,
            help="How items are named: by a number, or by codes that items which are alike share, "
            "of product or residual k-means.",
        ),
        _option(
            "--id_vectors",
            type=TEXT,
            metavar="SOURCE",
            callback=lambda context, option, source: source and os.path.expanduser(source),
            help="What codes are made of: titles, co_occurrence (of train events), both, a file of "
            "vectors (.npy, .parquet), or a T5 whose encoder reads the items' texts (a folder that "
            "`convert --to hf` wrote, or transformers).  [default: both]",
        ),
        _option(
            "--id_codes",
            metavar="LEVELSxCODES",
            callback=_parse_sizes,
            help="How many levels of how many codes an id has.  [default: 3x256]",
        ),
        _option(
            "--overwrite",
            is_flag=True,
            help="Replace a domain of the same name; the old one stays until the new one is whole.",
        ),
    ]

    if not name:  # a generated shop has no repeated events
        options.append(
            _option(
                "--drop_duplicates",
                is_flag=True,
                help="Leave out interactions that repeat an earlier one of the same user, item and "
                "time.",
            )
        )
    return combine(*options)


@click.group()
def prepare() -> None:
    """Turns interactions and items into a prepared domain.

    A prepared domain is a folder DATA_DIR/NAME: the catalogue (items.parquet), the interactions in
    chronological order (interactions.parquet), a TensorFlow Datasets build with the splits train,
    validation and test (1.0.0), and statistics.json. Of each user with three events or more, the
    last event is the test target and the last but one the validation target; for each of them a
    list of 100 candidates is stored (candidates_test.npy, …), the target among items that the user
    never touched. Ratings of train events are split 8:1:1 (rating/1.0.0).

    A source is a file, plain or compressed (.gz, .bz2, .xz, .zst, .lz4, or an archive of one file),
    a folder of parts, a pattern in quotes ('part-*.csv'), each of them also in a bucket (gs://…),
    or - for standard input.

    Preparing again with the same options from the same files does nothing.
    """


@prepare.command(
    epilog="\b\n"
    "Example:\n"
    "  recalign prepare recbole --inter beauty.inter --item beauty.item --name beauty"
)
@click.option("--inter", type=SOURCE, required=True, help="The .inter file.")
@click.option("--item", type=SOURCE, help="The .item file. Optional.")
@_column_options("field")
@_common()
def recbole(inter: Path, item: Path | None, **options: Any) -> None:
    """RecBole atomic files.

    Tab-separated, with a header of name:type where type is token, token_seq, float or float_seq;
    columns in any order. Fields are user_id, item_id, timestamp, rating (the last two optional),
    and in the .item file item_id, title, brand, categories or common other names of these; other
    item columns are kept in items.parquet, other interaction columns are ignored.
    """

    def read(columns: Mapping[str, str | None]) -> Any:
        from recalign.domains.readers import recbole as reader

        return reader.read(inter, item, columns)

    _prepare("recbole", read, {"interactions": inter, "items": item}, "field", options)


@prepare.command(
    epilog="\b\n"
    "Example:\n"
    "  recalign prepare table --interactions orders.csv.gz --items products.parquet \\\n"
    "    --user-column customer --item-column sku --timestamp-column ordered_at \\\n"
    "    --title-column product_name --name my_shop"
)
@click.option(
    "--interactions",
    type=SOURCE,
    required=True,
    help="One row an event: .csv, .tsv and the like, .parquet, .feather, .orc or .jsonl.",
)
@click.option("--items", type=SOURCE, help="One row an item, in any of these formats. Optional.")
@_column_options("column")
@_beam_options
@_common()
def table(interactions: Path, items: Path | None, **options: Any) -> None:
    """Any table with named columns: CSV, TSV, Parquet, JSON lines.

    Columns that are not named are looked for under common names (user_id, item_id, timestamp,
    rating, title, brand, categories, …). Without a timestamp column, events keep file order.
    """

    def read(columns: Mapping[str, str | None]) -> Any:
        from recalign.domains.readers import table as reader

        return reader.read(interactions, items, columns)

    def shard(columns: Mapping[str, str | None]) -> Any:
        from recalign.domains.readers import table as reader

        return reader.shard(interactions, items, columns)

    sources = {"interactions": interactions, "items": items}
    _prepare("table", read, sources, "column", options, shard=shard)


_amazon_options = combine(
    click.option("--reviews", type=SOURCE, required=True, help="The reviews."),
    click.option("--meta", type=SOURCE, help="The metadata of the items."),
    _option(
        "--all_items",
        is_flag=True,
        help="Make every item of the metadata a part of the catalogue, not only those that were "
        "reviewed.",
    ),
)


def _prepare_amazon(
    year: int, reviews: Path, meta: Path | None, all_items: bool, options: dict[str, Any]
) -> None:
    def read(columns: Mapping[str, str | None]) -> Any:
        from recalign.domains.readers import amazon

        edition = amazon.EDITION_2014 if year == 2014 else amazon.EDITION_2023
        return amazon.read(edition, reviews, meta, all_items)

    def shard(columns: Mapping[str, str | None]) -> Any:
        from recalign.domains.readers import amazon

        return amazon.shard_2023(reviews, meta, all_items)

    sources = {"interactions": reviews, "items": meta}
    _prepare(f"amazon{year}", read, sources, None, options, {"all_items": all_items}, shard)


@prepare.command(
    epilog="\b\n"
    "Example:\n"
    "  recalign prepare amazon2014 --reviews reviews_Beauty_5.json.gz \\\n"
    "    --meta meta_Beauty.json.gz --name beauty"
)
@_amazon_options
@_common()
def amazon2014(reviews: Path, meta: Path | None, all_items: bool, **options: Any) -> None:
    """Amazon reviews, edition of 2014 (also 2018).

    reviews_X_5.json.gz and meta_X.json.gz, whose lines are Python literals: they are parsed as
    such, never evaluated. Of an item's categories, the first path is taken.
    """
    _prepare_amazon(2014, reviews, meta, all_items, options)


@prepare.command(
    epilog="\b\n"
    "Example:\n"
    "  recalign prepare amazon2023 --reviews All_Beauty.jsonl.gz \\\n"
    "    --meta meta_All_Beauty.jsonl.gz --k_core 5 --name all_beauty"
)
@_amazon_options
@_beam_options
@_common()
def amazon2023(reviews: Path, meta: Path | None, all_items: bool, **options: Any) -> None:
    """Amazon Reviews 2023.

    Files of JSON lines. Items are known by their parent_asin, the store is taken for the brand, and
    timestamps stay in milliseconds.
    """
    _prepare_amazon(2023, reviews, meta, all_items, options)


@prepare.command(epilog="\b\nExample:\n  recalign prepare movielens --path ml-1m.zip --name ml_1m")
@click.option(
    "--path",
    type=LOCAL_SOURCE,
    required=True,
    help="The folder, or the zip archive, which is read in place, or the file of ratings.",
)
@_common()
def movielens(path: Path, **options: Any) -> None:
    """MovieLens, any release.

    As GroupLens publishes them (100K: u.data and u.item; 1M and 10M: ratings.dat and movies.dat;
    20M and later: ratings.csv and movies.csv; the movies may be absent), or RecBole's copy of
    100K, which is a part of its wheel (`pip download --no-deps recbole==1.2.1`).
    """
    from recalign.domains.readers import movielens as reader

    sources = reader.list_sources(path)
    _prepare("movielens", lambda columns: reader.read(path), sources, None, options)


@prepare.command(
    epilog="\b\nExample:\n  recalign prepare toyshop --users 2000 --items 300 --seed 0"
)
@click.option("--users", type=int, default=2000, show_default=True, help="Number of users.")
@click.option("--items", type=int, default=300, show_default=True, help="Size of the catalogue.")
@_common(name="toyshop", vocab_size=700)
def toyshop(users: int, items: int, **options: Any) -> None:
    """A generated toy shop, no download.

    Series of toys are bought in order, by users with tastes: a model that reads the order of a
    history can tell the next item, popularity cannot. The same seed gives the same shop.
    """
    if not (options["vocabulary"] or options["vocab_size"] or options["item_tokens"]):
        options["vocab_size"] = 700

    def read(columns: Mapping[str, str | None]) -> Any:
        from recalign.domains.readers import toyshop as generator

        return generator.generate(users, items, options["seed"])

    _prepare("toyshop", read, {}, None, options, {"users": users, "items": items})


def _prepare(
    command: str,
    read: Callable[[Mapping[str, str | None]], Any],
    sources: Mapping[str, Path | None],
    kind: str | None,
    options: dict[str, Any],
    reader_options: Mapping[str, Any] | None = None,
    shard: Callable[[Mapping[str, str | None]], Any] | None = None,
) -> None:
    """Prepares one domain with a progress display, and prints what came of it."""
    from recalign.domains import prepare as preparing
    from recalign.progress import Progress

    columns = {role: options.pop(f"{role}_{kind}") for role in (*ROLES, "catalogue_item") if kind}
    named = {f"{role}_column": column for role, column in columns.items() if column}
    _check(columns, sources, kind, reader_options or {})
    beam, beam_options = options.pop("beam", False), options.pop("beam_pipeline_options", None)
    if beam_options is not None and not beam:
        raise UserError("--beam_pipeline_options is about --beam, which is not given")
    request = preparing.Request(
        command=command,
        read=lambda: read(columns),
        shard=(lambda: shard(columns)) if beam else None,
        beam=(beam_options or "") if beam else None,
        sources={role: path for role, path in sources.items() if path},
        reader_options=dict(reader_options or named),
        encode=_encode,
        **options,
    )
    total = preparing.count_stages(request)
    with Progress(f"preparing {request.name}", total, "stage") as progress:
        begun: list[str] = []

        def stage(text: str) -> None:
            progress.update(bool(begun))  # the one before
            progress.note(text)
            begun.append(text)

        outcome = preparing.prepare(request, _write_records, stage)
    for warning in outcome.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(summarise(outcome))


def _check(
    columns: Mapping[str, str | None],
    sources: Mapping[str, Path | None],
    kind: str | None,
    reader_options: Mapping[str, Any],
) -> None:
    """Refuses options that would have no effect."""
    if "items" in sources and not sources["items"]:
        idle = [f"{role.replace('_', '-')}-{kind}" for role in ITEM_ROLES if columns.get(role)]
        idle += ["all_items"] if reader_options.get("all_items") else []
        if idle:
            raise UserError(f"--{idle[0]} is about the item table, and none is given")
    if [str(path) for path in sources.values()].count("-") > 1:
        raise UserError("standard input (-) can be one of the sources, not two")


def _encode(checkpoint: str, texts: Sequence[str]) -> Any:
    from recalign.runs.text_vectors import encode_texts

    return encode_texts(checkpoint, texts)


def _write_records(domain: Any, folder: Path) -> None:
    from recalign.domains import records

    records.write(domain, folder)
