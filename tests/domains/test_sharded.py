"""Domains in shards, against those assembled in memory: every file is the same, byte by byte."""

import contextlib
import json
import pickle
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.domains import beam, prepare, sharded
from recalign.domains.readers import amazon, table
from recalign.domains.scratch import Scratch
from recalign.errors import UserError

TIMES = {
    "none": None,
    "whole": st.integers(0, 5).map(str),
    "missing": st.sampled_from(["1", "2", "", "3.0"]),
    "fractions": st.sampled_from(["1", "2.5", "2", "1e3"]),
    "dates": st.sampled_from(["2020-01-01", "2020-01-02T03:04:05Z", ""]),
    "microseconds": st.sampled_from(["2020-01-01", "2020-01-01T00:00:00.5", "2019-12-31"]),
    "nanoseconds": st.sampled_from(["2020-01-01", "2020-01-01T00:00:00.000000001Z", ""]),
}
ITEMS = "item_id,title\n" + "".join(f"i{n},Item &amp; {n}\n" for n in range(9))


@st.composite
def sources(draw):
    """The CSV files of a source: up to four, which may have a header alone."""
    kind, rated = draw(st.sampled_from([*TIMES])), draw(st.booleans())
    fields = [st.sampled_from(["ann", "bob", "Ćid", " dan", "7.0", "7"])]
    fields.append(st.integers(0, 11).map(lambda n: f"i{n}"))
    if TIMES[kind] is not None:
        fields.append(TIMES[kind])
    names = ["user_id", "item_id", "timestamp"][: len(fields)]
    if rated:
        fields.append(st.sampled_from(["1", "2", "4.5", ""]))
        names.append("rating")
    rows = draw(st.lists(st.tuples(*fields), min_size=3, max_size=40))
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    parts = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    return ["\n".join(map(",".join, [names, *part])) + "\n" for part in parts]


@contextlib.contextmanager
def stages(options, folder):
    """Runs each task twice, as runners may, on what has been pickled, as for another machine."""
    scratch = Scratch(folder / "shards")
    scratch.path.mkdir()

    def run(function, tasks):
        for task in tasks:
            for _ in range(2):
                copy, arguments = pickle.loads(pickle.dumps((function, task)))
                result = copy(*arguments)
            yield pickle.loads(pickle.dumps(result))

    yield scratch, run
    for path in scratch.path.iterdir():
        path.unlink()
    scratch.path.rmdir()


@pytest.fixture(scope="module", autouse=True)
def without_beam():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam, "open_stages", stages)
        patch.setattr(sharded, "ROWS", 5)
        patch.setattr(sharded, "_SAMPLE", 2)
        yield


def outcome_of(folder, name, **options):
    """What a preparation of `folder/events` leaves: {file: its bytes}, warnings; or its refusal.

    On the way it has told of as many stages as there are.
    """
    items = folder / "items.csv" if (folder / "items.csv").exists() else None
    request = prepare.Request(
        name="x",
        command="table",
        read=lambda: table.read(folder / "events", items, {}),
        shard=lambda: table.shard(folder / "events", items, {}),
        sources={"interactions": folder / "events"},
        data_dir=folder / name,
        **options,
    )
    told = []
    try:
        outcome = prepare.prepare(request, lambda domain, folder: None, told.append)
    except UserError as error:
        return str(error).replace(str(folder), "")
    assert len(told) == prepare.count_stages(request)
    root = Path(outcome.folder)
    files = [file for file in sorted(root.rglob("*")) if file.is_file()]
    return {str(f.relative_to(root)): f.read_bytes() for f in files}, outcome.warnings


def put(folder, parts, items=True):
    (folder / "events").mkdir()
    for number, text in enumerate(parts):
        (folder / "events" / f"part-{number}.csv").write_text(text)
    if items:
        (folder / "items.csv").write_text(ITEMS)


@settings(max_examples=15, deadline=None)
@given(sources(), st.sampled_from([None, 2]), st.booleans(), st.booleans(), st.integers(0, 3))
def test_the_files_are_those_of_the_path_in_memory(parts, k_core, drop, items, seed):
    with tempfile.TemporaryDirectory() as name:
        put(Path(name), parts, items)
        options = {"k_core": k_core, "drop_duplicates": drop, "seed": seed}
        expected = outcome_of(Path(name), "memory", **options)
        assert outcome_of(Path(name), "shards", beam="", **options) == expected


def test_candidates_and_ratings_over_many_pieces(tmp_path):
    events = [f"u{n % 37:02d},i{n * n % 191},{n % 7},{1 + n % 5}" for n in range(600)]
    events.append("lonely,i0,0,1")
    header = "user_id,item_id,timestamp,rating"
    parts = ["\n".join([header, *events[start::3]]) + "\n" for start in range(3)]
    put(tmp_path, parts)
    expected, _ = outcome_of(tmp_path, "memory", k_core=2, vocab_size=400)
    found, _ = outcome_of(tmp_path, "shards", k_core=2, vocab_size=400, beam="")
    statistics = json.loads(found["statistics.json"])
    assert statistics["candidates"]["test"]["candidates"] > 1
    assert min(statistics["ratings"][part] for part in ("validation", "test")) > 10
    assert statistics["cleaning"]["k_core_rounds"] > 0
    assert found == expected


def test_a_part_may_lack_a_column_that_need_not_be_there(tmp_path):
    put(tmp_path, ["user_id,item_id,rating\nu,i1,2\nu,i2,3\n", "user_id,item_id\nu,i3\nu,i4\n"])
    expected = outcome_of(tmp_path, "memory")
    assert outcome_of(tmp_path, "shards", beam="") == expected


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["user_id,item_id\n", "user_id,item_id\n"], "there is a header but no rows"),
        (["user_id,item_id\nu,a\n", "user_id,item_id\nv,\n"], "part-1.csv, line 2: 'item_id'"),
        (
            ["user_id,item_id,time\nu,a,1\n", "user_id,item_id,date\nu,a,2\n"],
            "the timestamp is in the column time in one part, in date in another",
        ),
        (
            ["user_id,item_id,time\nu,a,1\n", "user_id,item_id,time\nu,a,2020-01-01\n"],
            "times are dates in some parts and numbers in others",
        ),
        (["user_id,item_id\nu,i1\n", "user_id,item_id\nu,i2\n"], "no user has 3 interactions"),
    ],
)
def test_what_is_refused(tmp_path, parts, message):
    put(tmp_path, parts)
    assert message in outcome_of(tmp_path, "shards", beam="")
    assert not (tmp_path / "shards" / "x").exists()


def test_codes_of_all_events_are_refused(tmp_path):
    put(tmp_path, ["user_id,item_id\nu,i1\n"])
    refusal = outcome_of(tmp_path, "shards", beam="", item_ids="pq", item_tokens=True)
    assert "--item_ids pq is made of all events at once" in refusal


def test_amazon_reads_the_metadata_of_what_was_reviewed(tmp_path):
    reviews = [
        {"user_id": f"u{n % 3}", "parent_asin": f"B{n % 5}", "timestamp": n} for n in range(12)
    ]
    (tmp_path / "reviews").mkdir()
    for part in range(2):
        lines = "".join(json.dumps(review) + "\n" for review in reviews[part::2])
        (tmp_path / "reviews" / f"{part}.jsonl").write_text(lines)
    meta = [{"parent_asin": f"B{n}", "title": f"T{n}", "store": "s"} for n in range(9)]
    (tmp_path / "meta.jsonl").write_text("".join(json.dumps(item) + "\n" for item in meta))
    source = amazon.shard_2023(tmp_path / "reviews", tmp_path / "meta.jsonl", False)
    edition = amazon.EDITION_2023
    expected = amazon.read(edition, tmp_path / "reviews", tmp_path / "meta.jsonl")
    with stages("", tmp_path) as (scratch, run):
        domain, raw = sharded.build(source, "x", 0, None, False, scratch, run)
        assert len(domain.files) > 1
        assert domain.num_items == 5
    assert raw.items.equals(expected.items)
    assert raw.columns == expected.columns
    assert raw.counts.items() >= expected.counts.items()
