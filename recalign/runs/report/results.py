"""The tables of a page: what runs reach, by what they differ, and on which targets."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from recalign.domains import Domain
from recalign.errors import UserError
from recalign.evaluation.intervals import ENDS, name_end
from recalign.evaluation.outcomes import estimate
from recalign.evaluation.report import GROUP_METRIC, PROTOCOLS, read_groups
from recalign.runs.report.html import Content, Html, section, table, tag
from recalign.runs.report.published import Row, find_published
from recalign.runs.report.subject import MODEL, Rows, Subject

MOST_COMPARED = 8
"""Runs whose differences are shown."""
GLANCED_AT = {"hr@10": "", "rmse": ", lower is better"}
"""Of a protocol's metrics, the one that is drawn."""


def show_glance(subjects: Sequence[Subject]) -> Html | None:
    """By bars what runs reach, beside baselines and what was published: of test, if it was seen."""
    made = _gather(subjects)
    tested = {each.task for each in made if each.split == "test"}
    drawn = [each.bars() for each in made if each.split == "test" or each.task not in tested]
    return section("At a glance", tag("div", drawn, class_="cards")) if any(drawn) else None


def show_results(subjects: Sequence[Subject]) -> Html | None:
    """A table for each task, split and protocol: nothing that cannot be compared shares one."""
    shown = [[tag("h3", made.heading), made.by_protocol()] for made in _gather(subjects)]
    nothing = tag("p", "Nothing has been evaluated yet.", class_="note")
    return section("Results", shown or nothing)


def _gather(subjects: Sequence[Subject]) -> "list[_Table]":
    tables: dict[tuple, _Table] = {}
    for subject in subjects:
        for task, split, few, step, rows in subject.tables():
            key = (task, split, subject.fingerprint(task), few)
            made = tables.setdefault(key, _Table(task, split, few, subject.domain(task)))
            made.own[f"{subject.name}, step {step}"] = rows.get(MODEL, {})
            made.beside |= {n: row for n, row in rows.items() if n not in (MODEL, *made.beside)}
    return list(tables.values())


class _Line(NamedTuple):
    """A bar: of what, how long, what is written at it, and whether it is a run's."""

    name: str
    value: float
    written: Content
    own: bool


@dataclasses.dataclass
class _Table:
    """What was evaluated on the same examples.

    Attributes:
      task: the SeqIO task.
      split: "validation" or "test".
      few: of validation, so many examples; None for all.
      domain: of the examples, if it is there.
      own: rows of runs.
      beside: rows of baselines.
    """

    task: str
    split: str
    few: int | None
    domain: Domain | None
    own: Rows = dataclasses.field(default_factory=dict)
    beside: Rows = dataclasses.field(default_factory=dict)

    @property
    def heading(self) -> str:
        return f"{self.task}, {self.split}" + (f", the first {self.few}" if self.few else "")

    def by_protocol(self) -> list[Html]:
        """A table a protocol, with what was published in it."""
        rows, tables = self.own | self.beside, []
        for protocol, names in self._protocols().items():
            tables.append(self._protocol(rows, protocol, names))
            tables += _groups(rows, protocol)
        return tables

    def bars(self) -> list[Html]:
        """A figure a protocol: one metric of every row, as long as it is high."""
        figures = []
        for protocol, names in self._protocols().items():
            for metric in [m for m in GLANCED_AT if f"{protocol}/{m}" in names][:1]:
                caption = f"{self.heading}: {metric}, {protocol}{GLANCED_AT[metric]}"
                lines = self._lines(protocol, metric)
                figures.append(tag("figure", tag("figcaption", caption), _draw_bars(lines)))
        return figures

    def _lines(self, protocol: str, metric: str) -> list[_Line]:
        """Of each row that has the metric, the runs first."""
        name = f"{protocol}/{metric}"
        lines = [
            _Line(row_name, value, _cell(row, name), row_name in self.own)
            for row_name, row in (self.own | self.beside).items()
            if (value := row.get(name)) is not None
        ]
        return lines + [
            _Line(f"{row.name}, published: {row.source}", value, _number(value), False)
            for row in self._find_published(protocol)
            if (value := row.metrics.get(metric)) is not None
        ]

    def _protocols(self) -> dict[str, list[str]]:
        """The names of the metrics of each protocol."""
        rows = [*self.own.values(), *self.beside.values()]
        names = dict.fromkeys(name for row in rows for name in row)
        protocols = dict.fromkeys(name.partition("/")[0] for name in names)
        return {protocol: _metrics(names, protocol) for protocol in protocols}

    def _find_published(self, protocol: str) -> list[Row]:
        statistics = self.domain.statistics if self.domain else None
        return find_published(statistics, protocol, self.split)

    def _protocol(self, rows: Rows, protocol: str, names: Sequence[str]) -> Html:
        columns = [name.partition("/")[2] for name in names]
        body = [
            [
                tag("span", name, class_="own") if name in self.own else name,
                *(_cell(row, column) for column in names),
            ]
            for name, row in rows.items()
            if not row.keys().isdisjoint(names)
        ]
        body += [
            [
                [row.name, tag("span", f"published: {row.source}", class_="interval")],
                *(_number(row.metrics.get(column)) for column in columns),
            ]
            for row in self._find_published(protocol)
        ]
        meaning = f": {PROTOCOLS[protocol]}" if protocol in PROTOCOLS else ""
        return table(["", *columns], body, f"{protocol}{meaning}")


def _draw_bars(lines: Sequence[_Line]) -> Html:
    """Names, numbers and bars; a bar is drawn for the eye alone."""
    highest = max((line.value for line in lines), default=0)

    def draw(line: _Line) -> Html:
        width = 100 * max(line.value, 0) / highest if highest > 0 else 0
        return tag(
            "li",
            tag("span", line.name),
            tag("span", line.written),
            tag("span", class_="bar", style=f"width: {width:.1f}%", aria_hidden="true"),
            class_="own" if line.own else None,
        )

    return tag("ul", [draw(line) for line in lines], class_="bars")


def _metrics(names: Iterable[str], protocol: str) -> list[str]:
    """Those of a protocol, without the ends of intervals and what is told of groups."""
    return [n for n in names if n.startswith(f"{protocol}/") and n.count("/") == 1]


def _groups(rows: Rows, protocol: str) -> list[Html]:
    """The table of hit rates by what train knows of a target; none where no row has any."""
    sizes, rates = read_groups(rows, protocol)
    if not rates:
        return []
    head = [f"{group.replace('_', ' ')}, {size:,.0f}" for group, size in sizes.items()]
    body = [[name, *map(_number, found)] for name, found in rates.items()]
    told = f"{protocol}: {GROUP_METRIC} by what train knows of the target, and how many there are"
    return [table(["", *head], body, told)]


def _cell(row: Mapping[str, float | None], name: str, form: str = ".4f") -> Content:
    low, high = (row.get(name_end(name, end)) for end in ENDS)
    if low is None or high is None:
        return _number(row.get(name), form)
    ends = f"{low:{form}} to {high:{form}}"
    return [_number(row.get(name), form), tag("span", ends, class_="interval")]


def _number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else f"{value:{form}}"


def differences(subjects: Sequence[Subject]) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """By what runs are ahead of the first one of them, user by user.

    Yields:
      A task, a split, the name of a run and its row, see `outcomes.estimate`; of tasks that both
      were evaluated on, on the same content of their domain.
    """
    first, *others = subjects
    for split, tasks in first.outcomes.items():
        for task, (domain, outcomes) in tasks.items():
            for other in others:
                theirs, found = other.outcomes.get(split, {}).get(task, (None, {}))
                if theirs != domain:
                    continue
                try:
                    row = estimate(found, [outcomes])
                except UserError:  # of other users: other EVAL_EXAMPLES
                    continue
                yield task, split, other.name, row


def show_differences(subjects: Sequence[Subject]) -> Html | None:
    """Of the first run from the others, each protocol in a table of its own."""
    tables: dict[tuple[str, str, str], Rows] = {}
    for task, split, name, row in differences(subjects[:MOST_COMPARED]):
        for protocol in dict.fromkeys(metric.partition("/")[0] for metric in row):
            own: dict[str, float | None] = {
                metric: v for metric, v in row.items() if metric.startswith(f"{protocol}/")
            }
            tables.setdefault((task, split, protocol), {})[name] = own
    shown = []
    for (task, split, protocol), rows in tables.items():
        names = _metrics(dict.fromkeys(m for row in rows.values() for m in row), protocol)
        body = [[name, *(_cell(row, n, "+.4f") for n in names)] for name, row in rows.items()]
        head = ["", *(name.partition("/")[2] for name in names)]
        shown.append(table(head, body, f"{task}, {split}, {protocol}"))
    ahead = f"By what each is ahead of {subjects[0].name}, user by user, with 95 % intervals."
    told = [tag("p", ahead, class_="note"), tell_left_out(subjects, MOST_COMPARED)]
    return section("Differences", [*told, shown] if shown else None)


def tell_left_out(subjects: Sequence[Subject], most: int) -> Html | None:
    """A note where the first runs alone are shown; None where all are."""
    if len(subjects) <= most:
        return None
    return tag("p", f"Of {len(subjects)} runs, the first {most}.", class_="note")
