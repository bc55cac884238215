"""The page about runs: what stands in it, what must not, and how it looks."""

import html
import html.parser
import json
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recalign import domains
from recalign.errors import UserError
from recalign.evaluation.outcomes import Ranks
from recalign.runs import calls, details
from recalign.runs.directory import RunDirectory
from recalign.runs.inspection import inspect
from recalign.runs.report import charts, write, write_in
from recalign.runs.report.html import tag
from recalign.runs.report.published import STANDARD, find_published
from recalign.runs.report.subject import gather
from tests.accessibility import violations
from tests.commands import run
from tests.runs.folders import PROVENANCE, snapshot, write_run
from tests.runs.report.test_events import write_events

ITEMS = [
    {"id": f"toy-{i}", "title": f"<b>Toy</b> & {i}", "probability": 0.5 / 2**i} for i in (1, 2, 3)
]
ANSWER = {
    "asked": 256,
    "hits": 100,
    "tokens": {"mean": 40.0, "p95": 80.0, "longest": 96},
    "calibration": [{"count": 9, "predicted": 0.1, "observed": 0.2}],
    "shown": [
        {
            "question": "Bought: #1",
            "answer": "#2",
            "history": ITEMS,
            "target": ITEMS[0],
            "rank": 1,
            "items": ITEMS,
        },
        {"question": "<script>", "history": ITEMS, "target": ITEMS[0], "rank": None, "items": []},
    ],
}
ROW = {"full/hr@10": 0.28, "full/low/hr@10": 0.26, "full/high/hr@10": 0.31, "full/ndcg@10": 0.14}
TABLES = {"shop_retrieval": {"recalign": ROW, "popularity": {"full/hr@10": 0.05}}}


class Parsed(html.parser.HTMLParser):
    """The elements of a page, its tables with their captions, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.addresses, self.text = [], [], ""
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.open = self.rows = None
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.elements.append(name)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "action", "data")]
        if name == "tr":
            self.rows.append([])
        if name in ("td", "th"):
            self.rows[-1].append("")
        if name == "table":
            self.rows = []
        self.open = name

    def handle_data(self, data):
        if self.open == "style":
            return
        self.text += data
        if self.open == "caption":
            self.tables.append((data, self.rows))
        elif self.rows:
            self.rows[-1][-1] += data

    def handle_endtag(self, name):
        self.open = None
        if name == "table":
            self.rows = None


@pytest.fixture
def folder(tmp_path):
    """A run with all that a page can show."""
    path = tmp_path / "shop" / "a run"
    write_run(path)
    calls.record(path, 0, PROVENANCE, "1 x cpu")
    details.write(path, 20, "test", TABLES, {"shop_retrieval": ANSWER})
    write_events(path, {step: 1 / step for step in range(1, 41)})
    return path


def page(paths, output):
    write(paths, output)
    return output.read_text()


def test_what_a_run_was_and_reached(folder, tmp_path):
    found = Parsed(page([folder], tmp_path / "report.html"))
    for told in ("shop_aligned", "0.1.0", "1 x cpu", "content sha256 bb", "step 20, by full/hr@10"):
        assert told in found.text
    caption, [head, own, popularity] = found.tables[0]
    assert caption == "full: the whole catalogue ranked"
    assert head == ["", "hr@10", "ndcg@10"]
    assert own == ["a run, step 20", "0.28000.2600 to 0.3100", "0.1400"]
    assert popularity == ["popularity", "0.0500", "-"]
    # Loss; validation of retrieval, ndcg@10 of one protocol, and of ratings; calibration.
    assert found.elements.count("svg") == 4
    assert "Hit, rank 1" in found.text
    assert "Miss" in found.text
    assert "100 of 256 questions" in found.text
    assert "It is to write: #2" in found.text


def test_what_was_reached_is_seen_at_a_glance(folder, tmp_path):
    """A bar for each row of a protocol, of test where it was looked at."""
    text = page([folder], tmp_path / "report.html")
    begin, end = (
        text.index(f"<h2>{heading}</h2>") for heading in ("At a glance", "What was trained")
    )
    figures = re.findall("<figcaption>(.*?)</figcaption>(.*?)</figure>", text[begin:end])
    captions = [caption for caption, _ in figures]
    assert captions[0] == "shop_retrieval, test: hr@10, full"
    assert "shop_rating, validation: rmse, rating, lower is better" in captions
    assert not any("retrieval, validation" in caption for caption in captions)
    bars = re.findall(r"<li[^>]*><span>(.*?)</span>.*?width: (.*?)%", figures[0][1])
    assert bars == [("a run, step 20", "100.0"), ("popularity", "17.9")]  # of .28 and .05


def test_that_nothing_was_cut_is_said_in_words(folder, tmp_path):
    tag = "train/truncated_inputs"
    write_events(folder, dict.fromkeys(range(41, 50), 0.0), tag, filename_suffix=".2")
    found = Parsed(page([folder], tmp_path / "report.html"))
    assert "No input and no target was cut in training." in found.text
    write_events(folder, {50: 0.25}, tag, filename_suffix=".3")
    found = Parsed(page([folder], tmp_path / "report.html"))
    assert "Inputs that were cut" in found.text
    assert "No input and no target" not in found.text


def test_the_page_needs_nothing_and_runs_nothing(folder, tmp_path):
    text = page([folder], tmp_path / "report.html")
    found = Parsed(text)
    assert not {"script", "link", "img", "iframe", "object", "b"} & set(found.elements)
    assert all(address.startswith("#") for address in found.addresses)
    assert "default-src 'none'" in html.unescape(text)
    assert not re.search(r"url\((?!#)|@import", text)
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids))  # what charts refer to within themselves


def test_markup_is_text_wherever_it_comes_from(tmp_path):
    path = tmp_path / "<script>alert(1)</script>"
    write_run(path)
    other = tmp_path / "$x^2$ & <i>"
    write_run(other)
    evil = {**ANSWER, "shown": [{**ANSWER["shown"][1], "question": "</p><script>x</script>"}]}
    tables = {"shop_<img src=x>": {"<b>row</b>": {"full/<i>": 0.5}}}
    for each in (path, other):
        details.write(each, 20, "test", tables, {"</svg><script>": evil})
    write_events(path, {1: 0.5, 2: 0.4})
    found = Parsed(page([path, other], tmp_path / "report.html"))
    assert not {"script", "img", "i", "b"} & set(found.elements)
    assert "<b>row</b>" in found.text
    assert "<script>alert(1)<" in found.text
    assert "$x^2$ & <i>" in found.text


def test_runs_are_compared_in_tables_of_what_can_be_compared(tmp_path):
    paths = [tmp_path / "one", tmp_path / "two", tmp_path / "elsewhere"]
    for path, hits in zip(paths, (0.3, 0.2, 0.1), strict=True):
        write_run(path, hits=hits)
        if path.name == "elsewhere":  # another catalogue of the same name
            for file in path.rglob("metadata"):
                file.write_text(json.dumps({"domain shop": "content sha256 cc"}))
    text = page(paths, tmp_path / "report.html")
    rows = re.findall(r"<caption>full: .*?</table>", text, re.DOTALL)
    found = [[name in table for name in ("one,", "two,", "elsewhere,")] for table in rows]
    # Of test and of validation.
    assert found == [[True, True, False]] * 2 + [[False, False, True]] * 2
    for caption, body in re.findall(r"<caption>(.*?)</caption>(.*?)</table>", text, re.DOTALL):
        heads = re.findall(r'<th scope="col">(.*?)</th>', body)
        assert len(heads) == len(set(heads)), caption


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("protocol", ["full", "full_unseen", "cand100", "rating"])
def test_published_rows_stand_in_their_own_protocol_alone(split, protocol):
    for users, items, interactions in STANDARD.values():
        statistics = {"users": users, "items": items, "interactions": interactions}
        rows = find_published(statistics, protocol, split)
        assert bool(rows) == (split == "test" and protocol in ("full", "full_unseen"))
        assert find_published(statistics | {"users": users + 1}, protocol, split) == []
    assert find_published(None, protocol, split) == []


def test_published_rows_are_those_of_their_set():
    toys = dict(zip(("users", "items", "interactions"), STANDARD["toys"], strict=True))
    [rpg] = [row for row in find_published(toys, "full", "test") if row.name == "RPG"]
    assert rpg.metrics == {"hr@5": 0.0592, "ndcg@5": 0.0401, "hr@10": 0.0869, "ndcg@10": 0.0490}
    [hstu] = [r for r in find_published(toys, "full_unseen", "test") if r.name.startswith("HSTU")]
    assert hstu.metrics == {"hr@10": 0.0997, "ndcg@10": 0.0598}


def test_a_run_that_was_killed_or_has_hardly_begun_has_a_page(tmp_path):
    write_run(tmp_path / "killed", ended=False)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.gin").write_text("A = 1\n")
    found = Parsed(page([tmp_path / "killed", tmp_path / "begun"], tmp_path / "report.html"))
    assert "stopped before its end" in found.text
    assert "not begun" in found.text
    found = Parsed(page([tmp_path / "begun"], tmp_path / "report.html"))
    assert "Nothing has been evaluated yet." in found.text
    assert "No run has written a curve" in found.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", '{"shop_retr'),
        ("metrics.jsonl", "{\n{}\n"),
        ("details-test.json", '{"step": 20, "tab'),
        ("details-test.json", '{"step": 20, "tables": {"a": 1}, "answers": {}}'),
        ("details-test.json", '{"step": 20, "tables": {}, "answers": {"a": {}}}'),
        ("config.gin", "A = ["),
    ],
)
def test_a_broken_file_is_told_and_the_rest_is_shown(folder, tmp_path, name, content, capsys):
    (folder / name).write_text(content)
    [problem] = write([folder], tmp_path / "report.html")
    assert name in problem or "configuration" in problem
    assert problem.split(":")[-1] in Parsed((tmp_path / "report.html").read_text()).text
    assert f"{tmp_path / 'report.html'}: 1 run" in run(
        "report", folder, "--output", tmp_path / "report.html"
    )


def test_what_is_no_run_is_told_and_nothing_is_written(folder, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        run("report", folder, tmp_path, "--output", tmp_path / "report.html")
    with pytest.raises(UserError, match="is not there: make it first"):
        run("report", folder, "--output", tmp_path / "nowhere" / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_training_is_not_lost_over_its_page(folder, tmp_path, caplog):
    (folder / "report.html").mkdir()
    write_in(folder, [folder])
    assert "no report: " in caplog.text


def test_looking_changes_nothing_and_the_page_is_the_same_each_time(folder, tmp_path):
    before = snapshot(folder)
    first = page([folder], tmp_path / "report.html")
    assert page([folder], tmp_path / "report.html") == first
    assert snapshot(folder) == before


def test_runs_that_are_left_out_of_a_section_are_told(tmp_path):
    paths = [tmp_path / f"run-{number}" for number in range(9)]
    for path in paths:
        outcomes = {"full": Ranks(np.arange(3), np.array([1, 2, 0]), depth=20)}
        directory = write_run(path)
        metrics = directory.metrics_of(20, "test")
        directory.record(20, "test", metrics, {"shop_retrieval": ("shop sha256 bb", outcomes)})
        details.write(path, 20, "test", TABLES, {"shop_retrieval": ANSWER})
    for number, told in ((9, [8, 4]), (8, [4]), (4, [])):
        write(paths[:number], tmp_path / "report.html")
        found = re.findall(
            rf"Of {number} runs, the first (\d)\.", (tmp_path / "report.html").read_text()
        )
        assert [*map(int, found)] == told


def test_of_validation_the_best_step_is_shown_whatever_details_there_are(folder, tmp_path):
    details.write(folder, 10, "validation", {"shop_retrieval": {"recalign": {"full/hr@10": 1}}}, {})
    found = Parsed(page([folder], tmp_path / "report.html"))
    assert "1.0000" not in found.text
    [own] = [t[1] for _, t in found.tables if "0.3500" in t[1]]  # full_unseen of step 20
    assert own == ["a run, step 20", "0.3500"]


def test_evaluations_on_all_of_validation_share_no_table_with_those_of_training(tmp_path):
    write_run(tmp_path / "run")
    config, history = tmp_path / "run" / "config.gin", tmp_path / "run" / "metrics.jsonl"
    config.write_text(config.read_text() + "EVAL_EXAMPLES = 8\n")
    history.write_text(history.read_text().replace('"limit": null', '"limit": 8'))
    name = "shop_retrieval/validation/full/hr@10"
    RunDirectory(tmp_path / "run", 8).record(40, "validation", {name: 0.9})
    [subject] = gather([tmp_path / "run"])
    assert subject.found.best_step == 20
    assert subject.validation_curves()["shop_retrieval/full/hr@10"][40] == pytest.approx(0.2)
    shown = {(split, limit, step) for _, split, limit, step, _ in subject.tables()}
    assert shown == {("test", None, 20), ("validation", 8, 20)}
    rows = {"shop_retrieval": {"recalign": {"full/hr@10": 0.25}}}
    details.write(tmp_path / "run", 20, "validation", rows, {})  # of all
    [subject] = gather([tmp_path / "run"])
    assert ("shop_retrieval", "validation", None, 20) in {row[:4] for row in subject.tables()}


def test_published_rows_stand_beside_a_run_on_the_very_set(folder, tmp_path, monkeypatch):
    counts = dict(zip(("users", "items", "interactions"), STANDARD["beauty"], strict=True))
    beauty = SimpleNamespace(statistics=counts)
    known = {"shop": "sha256 bb"}
    monkeypatch.setattr(domains, "fingerprint", lambda name, folder: known[name])
    monkeypatch.setattr(domains, "load", lambda name, folder: beauty)
    tables = Parsed(page([folder], tmp_path / "report.html")).tables
    [(caption, rows)] = [(c, rows) for c, rows in tables if any("published" in r[0] for r in rows)]
    assert caption == "full: the whole catalogue ranked"
    [rpg] = [row for row in rows if row[0].startswith("RPGp")]
    assert rpg == ["RPGpublished: its paper", "0.0809", "0.0464"]
    known["shop"] = "sha256 of other events"
    assert "published" not in page([folder], tmp_path / "report.html")


FILES = ("metrics.json", "seconds.json", "result.json", "details-test.json", "calls.jsonl")


def places(value, path=()):
    """Where there is something in JSON, and how to come there."""
    yield path
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*path, key))


def changed(value, path, new):
    """JSON with something else in a place, or without it."""
    if not path:
        return new
    first, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    if rest or new is not None:
        copy[first] = changed(copy[first], rest, new)
    else:
        del copy[first]
    return copy


@given(data=st.data())
@settings(
    max_examples=int(os.environ.get("RECALIGN_FUZZ_EXAMPLES", 60)),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_is_in_the_files_of_a_run_there_is_a_page(folder, tmp_path, monkeypatch, data):
    monkeypatch.setattr(charts, "_figure", lambda title, description, draw: tag("figure", title))
    name = data.draw(st.sampled_from(FILES))
    before = (folder / name).read_text()
    whole = json.loads(before)
    place = data.draw(st.sampled_from(sorted(places(whole), key=str)))
    new = data.draw(st.sampled_from([None, -1, 0.5, "<b>", [], {}, [1], {"a/b/c/d": "e"}, True]))
    (folder / name).write_text(json.dumps(changed(whole, place, new)) + "\n")
    try:
        write([folder], tmp_path / "fuzzed.html")
        str(inspect(folder))
    finally:
        (folder / name).write_text(before)
    assert "<b>" not in (tmp_path / "fuzzed.html").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(folder, tmp_path, browser, scheme):
    """On a phone nothing is wider than the page; nothing keeps anybody from reading it."""
    write_run(tmp_path / "shop" / "another_run", hits=0.2)
    output = tmp_path / "report.html"
    write([folder, tmp_path / "shop" / "another_run"], output)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    phone = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        browser.get(output.as_uri())
        shown, whole = browser.execute_script(
            "const page = document.documentElement; return [page.clientWidth, page.scrollWidth]"
        )
        assert shown == whole <= 400
        paper, ink = browser.execute_script(
            "const [body, text] = ['body', 'svg text'].map((s) =>"
            "  getComputedStyle(document.querySelector(s)));"
            "return [body.backgroundColor, text.fill]"
        )
        lightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in (paper, ink)]
        assert (lightness[0] > lightness[1]) == (scheme == "light"), (paper, ink)
        assert abs(lightness[0] - lightness[1]) > 100
        widths = (
            "return [...document.querySelectorAll('svg')].map((s) => s.getBoundingClientRect())"
        )
        for box in browser.execute_script(widths):
            assert box["width"] == 0 or 250 < box["width"] <= 400
        # Whichever way a wide table is moved, its rows keep their names.
        lefts = browser.execute_script(
            "const wide = [...document.querySelectorAll('.scroll')]"
            "  .filter((e) => e.scrollWidth > e.clientWidth);"
            "wide.forEach((e) => { e.scrollLeft = 1000; });"
            "return wide.map((e) => e.querySelector('tbody th').getBoundingClientRect().left"
            "  - e.getBoundingClientRect().left)"
        )
        assert lefts
        assert all(0 <= left <= 2 for left in lefts)
        assert violations(browser) == []
        # What is closed on a screen is read on paper.
        closed = (
            "return [...document.querySelectorAll('details:not([open]) p')]"
            "  .map((e) => e.checkVisibility())"
        )
        assert set(browser.execute_script(closed)) == {False}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        assert set(browser.execute_script(closed)) == {True}
        assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
