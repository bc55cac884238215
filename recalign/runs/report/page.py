"""The page about runs, section by section."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import recalign
from recalign.errors import UserError
from recalign.files import write_text
from recalign.progress import duration, readable
from recalign.runs.report import charts
from recalign.runs.report.html import Content, Html, section, table, tag
from recalign.runs.report.results import show_differences, show_glance, show_results, tell_left_out
from recalign.runs.report.subject import Subject, gather

log = logging.getLogger(__name__)

FILE = "report.html"
CURVES = {
    "loss": ("Loss of training", "nats a token"),
    "learning_rate": ("Learning rate", ""),
    "tokens_per_second": ("Speed", "tokens/s"),
    "gradient_norm": ("Norm of the gradient", ""),
}
CUT = {
    "truncated_inputs": ("Inputs that were cut", "share of samples"),
    "truncated_targets": ("Targets that were cut", "share of samples"),
}
LENGTHS = {"tokens_per_sample": ("Length of a sample, input and target", "tokens, mean")}
VALIDATION = ("/ndcg@10", "rating/rmse")
"""Of the metrics of validation, those whose curves are drawn end so."""
MOST_SHOWN = 4
"""Runs whose answers are shown; of more, the page would be too long to read."""


def write(paths: Sequence[Path], output: Path) -> list[str]:
    """Writes the page about some runs, whole or not at all.

    Returns:
      What could not be read; the page says it too.

    Raises:
      UserError: a folder holds no run, or nothing can be written there.
    """
    subjects = gather(paths)
    try:
        write_text(output, _page(subjects))
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}") from error
    return [problem for subject in subjects for problem in subject.problems]


def write_in(folder: Path, paths: Sequence[Path]) -> None:
    """Writes report.html in a folder when runs have ended; what hinders it is told, no error."""
    try:
        write(paths, folder / FILE)
    except UserError as error:
        log.warning("no report: %s", error)
    else:
        log.info("a report: %s", folder / FILE)


def _page(subjects: Sequence[Subject]) -> str:
    title = " · ".join(subject.name for subject in subjects[:3]) + " …" * (len(subjects) > 3)
    sections = [
        _training(subjects),
        _validation(subjects),
        show_results(subjects),
        show_differences(subjects),
        _calibration(subjects),
        _samples(subjects),
        _answers(subjects),
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # Nothing is asked of any network, and nothing runs.
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'",
        ),
        tag("title", f"recalign · {title}"),
        tag("style", Html((Path(__file__).parent / "page.css").read_text(encoding="utf-8"))),
    ]
    body = [
        tag("header", tag("h1", title), tag("p", _subtitle(subjects), class_="note")),
        tag("main", show_glance(subjects), _runs(subjects), sections),
        tag("footer", f"Written by recalign {recalign.__version__} from the files of the runs."),
    ]
    return f"<!doctype html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n"


def _trained_on(subject: Subject) -> str:
    config = subject.found.macros
    return str(config.get("MIXTURE_OR_TASK_NAME") or config.get("TOKENS_DIR", "?"))


def _subtitle(subjects: Sequence[Subject]) -> str:
    trained = ", ".join(dict.fromkeys(map(_trained_on, subjects)))
    return f"A report of recalign: {len(subjects)} run{'s' * (len(subjects) > 1)} on {trained}"


def _runs(subjects: Sequence[Subject]) -> Html | None:
    several = len(subjects) > 1
    cards = [_card(subject, place, several) for place, subject in enumerate(subjects)]
    return section("What was trained", tag("div", cards, class_="cards"))


def _card(subject: Subject, place: int, several: bool) -> Html:
    found = subject.found
    config = found.macros
    call = found.calls[-1] if found.calls else {}
    best = f"step {found.best_step}, by {config.get('BEST_METRIC')} on validation"
    facts: dict[str, Content] = {
        "Trained on": _trained_on(subject),
        "From": str(config.get("INITIAL_CHECKPOINT_PATH") or "scratch"),
        "Command": tag("code", found.command) if found.command else "not known",
        "recalign": found.origin or "not known",
        "Versions": ", ".join(f"{k} {v}" for k, v in call.get("packages", {}).items()) or None,
        "Devices": call.get("devices"),
        "Begun": found.calls[0]["time"] if found.calls else None,
        "Seed, batch": f"{config.get('RANDOM_SEED')}, {config.get('BATCH_SIZE')}",
        **{name.capitalize(): tag("code", value) for name, value in found.provenance.items()},
        "Steps": f"{found.step} of {config.get('TRAIN_STEPS', '?')}, {duration(found.seconds)}",
        "Best": best if found.best_step is not None else None,
        "Checkpoints": ", ".join(f"{c.step} ({readable(c.size)})" for c in found.checkpoints)
        or "none",
        "State": found.state,
    }
    listed = [[tag("dt", name), tag("dd", value)] for name, value in facts.items() if value]
    wrong = [tag("p", problem, class_="wrong") for problem in subject.problems]
    heading = tag("h3", _key(place), subject.name) if several else None
    return tag("div", heading, wrong, tag("dl", listed), class_="card")


def _key(place: int) -> Html:
    """How the lines of a run look."""
    look = f"color: var(--series-{place % charts.COLOURS})"
    dashed = " dashed" * (place >= charts.COLOURS)
    return tag("span", class_=f"key{dashed}", style=look, aria_hidden="true")


def _legend(subjects: Sequence[Subject]) -> Html | None:
    if len(subjects) == 1:
        return None
    lines = [tag("li", _key(place), s.name) for place, s in enumerate(subjects)]
    return tag("ul", lines, class_="legend")


def _curves(subjects: Sequence[Subject], tags: Mapping[str, tuple[str, str]]) -> list[Html | None]:
    return [
        charts.line_chart(title, {s.name: s.curve(f"train/{tag_}") for s in subjects}, unit)
        for tag_, (title, unit) in tags.items()
    ]


def _charts(
    heading: str, subjects: Sequence[Subject], drawn: Sequence[Html | None], *more: Content
) -> Html | None:
    """A section of charts with one legend for all of them."""
    if not any(drawn):
        return section(heading, *more)
    return section(heading, _legend(subjects), tag("div", drawn, class_="charts"), *more)


def _training(subjects: Sequence[Subject]) -> Html | None:
    drawn = _curves(subjects, CURVES)
    nothing = tag("p", "No run has written a curve of its training.", class_="note")
    return _charts("Training", subjects, drawn, None if any(drawn) else nothing)


def _validation(subjects: Sequence[Subject]) -> Html | None:
    curves = [subject.validation_curves() for subject in subjects]
    names = dict.fromkeys(name for found in curves for name in found if name.endswith(VALIDATION))
    drawn = [
        charts.line_chart(
            name.replace("/", " ", 1),
            {s.name: found.get(name, {}) for s, found in zip(subjects, curves, strict=True)},
        )
        for name in names
    ]
    return _charts("Validation", subjects, drawn)


def _newest_details(subjects: Sequence[Subject]) -> list[tuple[Subject, str, str, dict]]:
    """The details of the newest evaluation of each run: on test, or else on validation."""
    found = []
    for subject in subjects:
        for split, details in list(subject.details.items())[:1]:
            found += [(subject, split, task, told) for task, told in details["answers"].items()]
    return found


def _calibration(subjects: Sequence[Subject]) -> Html | None:
    told = _newest_details(subjects)
    tasks = dict.fromkeys(task for _, _, task, _ in told)
    drawn, tables = [], []
    for task in tasks:
        by_run = {s.name: each["calibration"] for s, _, name, each in told if name == task}
        series = {s.name: by_run.get(s.name, []) for s in subjects}
        drawn.append(charts.calibration_chart(f"{task}: answers by probability", series))
        body = [
            [name, str(b["count"]), f"{b['predicted']:.4f}", f"{b['observed']:.4f}"]
            for name, bins in by_run.items()
            for b in bins
        ]
        head = ["run", "answers", "probability, mean", "share that was right"]
        tables.append(table(head, body, f"{task}: the ten answers to each question that was drawn"))
    more = tag("details", tag("summary", "As numbers"), tables) if tables else None
    return _charts("Do its probabilities hold?", subjects, drawn, more)


def _samples(subjects: Sequence[Subject]) -> Html | None:
    body = []
    for subject, split, task, told in _newest_details(subjects):
        tokens, limits = told["tokens"], subject.found.macros.get("TASK_FEATURE_LENGTHS")
        limit = limits.get("inputs") if isinstance(limits, dict) else None
        lengths = [f"{tokens[name]:.0f}" for name in ("mean", "p95", "longest")]
        body.append([f"{subject.name}, {task}, {split}", *lengths, str(limit or "-")])
    head = ["questions in tokens", "mean", "95 % up to", "longest", "limit"]
    more = table(head, body, "Length of questions") if body else None
    cut = [value for s in subjects for name in CUT for value in s.curve(f"train/{name}").values()]
    drawn = _curves(subjects, LENGTHS | (CUT if any(cut) else {}))
    whole = "No input and no target was cut in training." if cut and not any(cut) else None
    note = tag("p", whole, class_="note") if whole else None
    return _charts("Length of samples", subjects, drawn, note, more)


def _answers(subjects: Sequence[Subject]) -> Html | None:
    shown = []
    for subject, split, task, told in _newest_details(subjects[:MOST_SHOWN]):
        summary = (
            f"{subject.name}, {task}, {split}: {told['hits']} of {told['asked']} questions that "
            "were drawn have the target among ten answers"
        )
        examples = [_example(example) for example in told["shown"]]
        opened = subject is subjects[0]
        shown.append(tag("details", tag("summary", summary), examples, open=opened))
    return section("A few answers", shown and [tell_left_out(subjects, MOST_SHOWN), shown])


def _example(example: Mapping) -> Html:
    target, rank, answer = example["target"], example["rank"], example.get("answer")
    verdict = f"Hit, rank {rank}" if rank else "Miss"
    sought = [] if rank else [". Sought: ", tag("span", _title(target), class_="target")]
    heading = tag("strong", verdict, class_="hit" if rank else None)
    answers = [
        tag(
            "li",
            tag("span", _title(item), class_="target" if item["id"] == target["id"] else None),
            tag("span", f" {item['probability']:.2%}", class_="probability"),
        )
        for item in example["items"]
    ]
    return tag(
        "div",
        tag("p", heading, sought),
        tag(
            "details",
            tag("summary", "As the model reads it"),
            tag("p", tag("code", example["question"])),
            tag("p", "It is to write: ", tag("code", answer)) if answer else None,
        ),
        tag(
            "p",
            f"History, oldest first ({len(example['history'])}): ",
            _history(example["history"]),
        ),
        tag("ol", answers),
        class_="example",
    )


def _history(items: Sequence[Mapping[str, str]]) -> str:
    return "; ".join(map(_title, items))


def _title(item: Mapping[str, str]) -> str:
    return item["title"] or item["id"]
