"""The report of an evaluation: a table to read, and two files for machines.

* `metrics.json`: the last evaluation, a flat object
  `"<task>/<split>/<protocol>/<metric>": number`, and where that is a mean over users also
  `"<task>/<split>/<protocol>/low/<metric>"` and `"…/high/<metric>"`, the ends of its 95 % interval.
  Hit rates by group of examples are `"…/hr@10/<group>"`, and how many these are,
  `"…/examples/<group>"`.
* `metrics.jsonl`: one line an evaluation, `{"step": …, "split": …, "limit": …, "<name>": number,
  …}`. The limit is EVAL_EXAMPLES where that was kept to, null where all examples were taken; lines
  of old runs have none.
"""

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from recalign.errors import UserError
from recalign.evaluation.intervals import ENDS, name_end
from recalign.files import changing, locate, write_text

HEADLINE = ("hr@1", "hr@5", "ndcg@5", "hr@10", "ndcg@10", "mrr@10")
"""Columns of a ranking table. Below them stand the rates that say what the lists are made of."""

RATES = ("invalid_rate", "duplicate_rate", "coverage@10")

RATING = ("rmse", "mae", "parse_rate")

PROTOCOLS = {
    "full": "the whole catalogue ranked",
    "full_unseen": "the whole catalogue ranked, items of the history removed",
    "cand100": "1 positive among 99 sampled negatives",
    "rating": "every rating counted; an answer that is no rating counts as the mean",
    "rating_expected": "the expected rating, over all that could be written",
}

SURE = ("hr@10", "ndcg@10", "rmse", "mae")
"""Columns that show the interval; the files have those of all."""

GROUPS = ("cold", "tail", "head", "transition_seen", "transition_unseen")
"""Of examples, see `recalign.evaluation.groups`: `GROUP_METRIC` is told of each."""
GROUP_METRIC, GROUP_SIZE = "hr@10", "examples"

_OF_ENDS = tuple(f"/{end}" for end in ENDS)

_LEADING_ZERO = re.compile(r"(?<!\d)0\.")


def format_tables(rows: Mapping[str, Mapping[str, float]], signed: Collection[str] = ()) -> str:
    """Lays out metrics as aligned Markdown, a table a protocol.

    Protocols never share a table, so that no column can be read across them. Columns of `SURE` show
    the 95 % interval in brackets.

    Args:
      rows: `{"model": {"full/hr@10": …, "full/low/hr@10": …}, "popularity": …}`, in the order to
        print; see `recalign.evaluation.outcomes.summarise`.
      signed: names of the rows that are differences.

    Returns:
      The tables, each under a line that says its protocol.
    """
    names = dict.fromkeys(name for row in rows.values() for name in row)
    found = (name.rpartition("/")[0] for name in names)
    others = (protocol for protocol in found if not protocol.endswith(_OF_ENDS))
    protocols = dict.fromkeys([*PROTOCOLS, *others])
    tables = []
    for protocol in protocols:
        shown = [c for c in HEADLINE + RATES + RATING if f"{protocol}/{c}" in names]
        if not shown:
            continue
        head = ["", *shown]
        body = [
            [name, *(_cell(row, f"{protocol}/{c}", name in signed) for c in shown)]
            for name, row in rows.items()
            if any(f"{protocol}/{c}" in row for c in shown)
        ]
        meaning = f": {PROTOCOLS[protocol]}" if protocol in PROTOCOLS else ""
        tables.append(f"{protocol}{meaning}\n\n{markdown([head, *body])}")
        if by_group := _group_table(rows, protocol):
            tables.append(by_group)
    return "\n\n".join(tables)


def read_groups(
    rows: Mapping[str, Mapping[str, float | None]], protocol: str
) -> tuple[dict[str, float], dict[str, list[float | None]]]:
    """The groups that have examples, with how many, and the hit rates of each row by group.

    See `recalign.evaluation.groups`. Both are empty where no row has any.
    """
    metric, numbers = f"{protocol}/{GROUP_METRIC}", f"{protocol}/{GROUP_SIZE}"
    having = {n: row for n, row in rows.items() if row.get(f"{numbers}/{GROUPS[0]}") is not None}
    first = next(iter(having.values()), {})
    sizes = {group: size for group in GROUPS if (size := first.get(f"{numbers}/{group}"))}
    return sizes, {n: [row.get(f"{metric}/{g}") for g in sizes] for n, row in having.items()}


def _group_table(rows: Mapping[str, Mapping[str, float]], protocol: str) -> str:
    """The hit rates by group; empty where no row has any."""
    sizes, rates = read_groups(rows, protocol)
    if not rates:
        return ""
    head = ["", *(f"{group} ({size:,.0f})" for group, size in sizes.items())]
    body = [[name, *(f"{rate:.4f}" for rate in found)] for name, found in rates.items()]
    told = f"{protocol}/{GROUP_METRIC} by the target of an example, with the number of examples"
    return f"{told}\n\n{markdown([head, *body])}"


def format_report(
    tables: Mapping[str, Mapping[str, Mapping[str, float]]], signed: Collection[str] = ()
) -> str:
    """The tables of each task under its name; see `format_tables`."""
    return "\n\n".join(
        f"{task}\n\n{format_tables(rows, signed=signed)}" for task, rows in tables.items()
    )


def add_prefix(metrics: Mapping[str, float], task: str, split: str) -> dict[str, float]:
    """Names metrics by where they come from: `full/hr@10` → `<task>/<split>/full/hr@10`."""
    return {f"{task}/{split}/{name}": value for name, value in metrics.items()}


def write_metrics(path: Path | str, metrics: Mapping[str, float]) -> None:
    """Writes `metrics.json` whole or not at all: beside its place, then renamed.

    Args:
      path: the file.
      metrics: full names and numbers; one that is not finite, which JSON cannot hold, becomes null.
    """
    text = json.dumps(_numbers(metrics), indent=2, sort_keys=True, allow_nan=False)
    write_text(locate(path), text + "\n")


def append_metrics(
    path: Path | str,
    step: int,
    split: str,
    metrics: Mapping[str, float],
    limit: int | None = None,
) -> None:
    """Adds an evaluation to `metrics.jsonl`, or puts it in the place of the same one.

    A line that a killed run left unfinished is dropped. A run that trains and any number of
    evaluations of it may add theirs at once.
    """
    head = {"step": int(step), "split": split, "limit": limit}
    record = head | _numbers(metrics)
    with changing(locate(path)):
        before = read_metrics(path) if locate(path).exists() else []
        records = [r for r in before if not head.items() <= r.items()]
        lines = [json.dumps(each, allow_nan=False) + "\n" for each in (*records, record)]
        write_text(locate(path), "".join(lines))


def read_metrics(path: Path | str) -> list[dict]:
    """Reads `metrics.jsonl`, passing over an unfinished last line.

    Raises:
      UserError: a finished line is not JSON.
    """
    records = []
    lines = _whole_lines(locate(path).read_bytes()).decode().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number}: not JSON ({error.msg}); remove or repair the line"
            ) from error
    return records


def comparable(records: Sequence[dict], split: str, limit: int | None) -> list[dict]:
    """The evaluations on a split that can be compared with each other.

    Of validation those on as many examples as training takes: `recalign eval` takes all.

    Args:
      records: of `metrics.jsonl`; those without a limit are taken for training's.
      split: "validation" or "test", of which all examples are taken.
      limit: EVAL_EXAMPLES.
    """
    of_split = [record for record in records if record["split"] == split]
    return [r for r in of_split if split != "validation" or r.get("limit", limit) == limit]


def metrics_in(record: Mapping[str, float | None]) -> dict[str, float | None]:
    """The metrics of a line of `metrics.jsonl`."""
    return {name: value for name, value in record.items() if "/" in name}


def is_whole(path: Path | str) -> bool:
    """Whether the last line of `metrics.jsonl`, if there is one, was written to its end."""
    content = locate(path).read_bytes() if locate(path).exists() else b""
    return content == _whole_lines(content)


def _whole_lines(content: bytes) -> bytes:
    """The lines that were written to their end; the newline comes last."""
    return content[: content.rfind(b"\n") + 1]


def _numbers(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Plain floats in place of numpy's and JAX's scalars, None for what is no finite number."""
    return {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}


def _cell(row: Mapping[str, float], metric: str, signed: bool) -> str:
    """`0.0907 [.0870, .0945]`, the interval where it is known and shown."""
    if (value := row.get(metric)) is None:
        return "-"
    cell = f"{value:+.4f}" if signed else f"{value:.4f}"
    low, high = (row.get(name_end(metric, end)) for end in ENDS)
    if low is None or high is None or metric.rpartition("/")[2] not in SURE:
        return cell
    return f"{cell} {format_ends(low, high)}"


def format_ends(low: float, high: float) -> str:
    """The ends of an interval, `[.0870, .0945]`."""
    return f"[{_LEADING_ZERO.sub('.', f'{low:.4f}, {high:.4f}')}]"


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Aligned Markdown: the first row is the head, the first column is to the left."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in (cells[0], rule, *cells[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
