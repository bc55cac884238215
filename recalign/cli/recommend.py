"""`recalign recommend`: what a trained run would recommend."""

import codecs
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from recalign.cli.options import LOCAL_SOURCE, data_dir_option, run_options, task_option
from recalign.errors import UserError

# So many histories of a file are answered before the first of them is printed.
AT_ONCE = 1024

GAP = "  "
# Columns of a table where there is no terminal, and what a column is not cut below.
WIDTH, NARROW = 120, 12


@click.command(
    epilog="\b\n"
    "Examples:\n"
    "  recalign recommend --model_dir runs/toyshop --history toy-127,toy-095\n"
    "  recalign recommend --model_dir runs/toyshop --user user-0017 --k 5 --json\n"
    "  recalign recommend --model_dir runs/toyshop --histories carts.jsonl > ranked.jsonl"
)
@run_options
@click.option("--history", metavar="ITEM,ITEM,…", help="Item ids, oldest first.")
@click.option("--user", help="All that a user has bought, held-out items included.")
@click.option(
    "--histories",
    type=LOCAL_SOURCE,
    metavar="FILE",
    help="One history a line: as for --history, a JSON list of ids, or a JSON object with it as "
    "`history`; each is answered by one JSON line.",
)
@click.option("--k", type=click.IntRange(min=1), default=10, show_default=True, help="How many.")
@click.option(
    "--include_seen", "--include-seen", is_flag=True, help="Also items of the history itself."
)
@click.option("--exact", is_flag=True, help="Score every item: slower, but nothing is missed.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@task_option
@data_dir_option
def recommend(
    load_run,
    history: str | None,
    user: str | None,
    histories: Path | None,
    k: int,
    include_seen: bool,
    exact: bool,
    as_json: bool,
    task: str | None,
) -> None:
    """Recommends items to whoever has bought a history of them.

    An item is named by its id in the source or by the model's ("#127"); one that holds a comma is
    written in double quotes. A score is the log-probability of the item after the history. Seen
    items are left out within the search, so that K others are found.
    """
    if [history, user, histories].count(None) != 2:
        raise UserError("recommend to whom? Give one of --history, --user and --histories")

    from recalign.runs.added_items import with_added_items
    from recalign.serving import histories as history_files
    from recalign.serving.recommender import of_run

    asked = [history_files.split(history)] if history is not None else []
    if histories is not None:
        asked = history_files.read(histories)
    recommender = of_run(with_added_items(load_run()), exact, task)
    if user is not None:
        found = [recommender.history_of_user(user)]
    else:
        found = [_items(recommender, keys, n, histories) for n, keys in enumerate(asked, start=1)]
    for start in range(0, len(found), AT_ONCE):
        part = found[start : start + AT_ONCE]
        ranked = recommender.recommend(part, k, include_seen)
        answers = [recommender.rows(ranked, place, asked) for place, asked in enumerate(part)]
        if histories is not None or as_json:
            click.echo("\n".join(_json_lines(recommender, part, answers)))
        else:
            click.echo(_table(answers[0]) if answers[0] else _nothing_left(recommender))


def _items(recommender, keys: Sequence[str], number: int, source: Path | None) -> list[int]:
    """The items of a history; an error tells its line."""
    try:
        return recommender.history(keys)
    except UserError as error:
        raise UserError(f"{source}:{number}: {error}" if source else str(error)) from error


def _json_lines(recommender, histories, answers) -> Iterator[str]:
    """Letters as they are where they can be printed, else as JSON writes them in ASCII."""
    ascii_alone = codecs.lookup(sys.stdout.encoding).name != "utf-8"
    for history, rows in zip(histories, answers, strict=True):
        ids = [recommender.describe(item)["id"] for item in history]
        yield json.dumps({"history": ids, "items": rows}, ensure_ascii=ascii_alone)


def _nothing_left(recommender) -> str:
    domain = recommender.domain
    return (
        f"the history holds all {domain.num_items} items of {domain.name}, so none is left to "
        "recommend: --include_seen ranks them"
    )


def _table(rows: Sequence[dict]) -> str:
    """Rows under headings, within the width of the terminal."""
    head = ("rank", "score", "id", "item", "title", "brand")
    cells = [head, *(tuple(_cell(row[name]) for name in head) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths = _within(shutil.get_terminal_size((WIDTH, 0)).columns, widths)
    cells = [tuple(map(_cut, row, widths)) for row in cells]

    def line(row: Sequence[str]) -> str:
        numbers = [f"{text:>{width}}" for text, width in zip(row[:2], widths[:2], strict=True)]
        texts = [f"{text:{width}}" for text, width in zip(row[2:], widths[2:], strict=True)]
        return GAP.join([*numbers, *texts]).rstrip()

    return "\n".join(map(line, cells))


def _within(columns: int, widths: Sequence[int]) -> list[int]:
    """Widths that fit beside each other: the widest columns give way, to `NARROW` at least."""
    widths = list(widths)
    while sum(widths) + len(GAP) * (len(widths) - 1) > columns and max(widths) > NARROW:
        widths[widths.index(max(widths))] -= 1
    return widths


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _cell(value: float | int | str) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
