"""Hostile bytes: every reader gives a whole domain or one clear error, and nothing else.

A valid file is mutated (bytes changed, cut, doubled, fields replaced by hostile ones, compressed,
and so damaged), or is bytes from nowhere. RECALIGN_FUZZ_EXAMPLES sets how many are tried of each
reader.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from recalign import domains
from recalign.domains import prepare
from recalign.domains.readers import amazon, movielens, recbole, table
from recalign.errors import UserError

EXAMPLES = int(os.environ.get("RECALIGN_FUZZ_EXAMPLES", 60))
EVENTS = [(f"u{u}", f"i{(u + n) % 4}", 4 - n, 100 * n + u) for u in range(3) for n in range(3 + u)]


def _delimited(separator, header, rows):
    lines = [header, *(map(str, row) for row in rows)]
    return "".join(separator.join(line) + "\n" for line in lines).encode()


def _json(names, rows):
    return b"".join(json.dumps(dict(zip(names, r, strict=True))).encode() + b"\n" for r in rows)


def _parquet(names, rows):
    file = io.BytesIO()
    pd.DataFrame(rows, columns=names).to_parquet(file)
    return file.getvalue()


def _zip(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"ml/{name.replace('_', '.')}", data)
    return file.getvalue()


def _gzip(data):
    return gzip.compress(data, 1, mtime=0)


def _zstd(data):
    return pa.compress(data, "zstd", asbytes=True)


def _utf16(data):
    return data.decode("latin-1").encode("utf-16")


NAMES = ["user_id", "item_id", "rating", "timestamp"]
TITLES = [(f"i{n}", f'Item "{n}" &amp; é', "Acme", "A > B") for n in range(4)]
ITEM_NAMES = ["item_id", "title", "brand", "categories"]
ATOMIC = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
ATOMIC_ITEM = ["item_id:token", "title:token_seq", "brand:token", "categories:token_seq"]
FLAGS = ["0"] * 17 + ["1", "1"]
MOVIES = [(f"i{n}", f"Film {n} (199{n})", "01-Jan-1995", "", "url", *FLAGS) for n in range(4)]
LITERALS = "".join(
    f"{{'asin': 'i{n}', 'title': 'It\\'s {n}', 'categories': [['A', 'B']]}}\n" for n in range(4)
).encode()
RATINGS = _delimited("\t", ["u0", "i0", "1", "7"], EVENTS)
DAT = _delimited("::", ["u0", "i0", "1", "7"], EVENTS)
FILMS = "".join(f"i{n}::Film {n} (199{n})::Drama|War\n" for n in range(4)).encode("latin-1")
LATEST = b'movieId,title,genres\ni0,"Film, A (1990)",War|Drama\ni1,B,\n'
KEYS_2014 = ["reviewerID", "asin", "overall", "unixReviewTime"]
KEYS_2023 = ["user_id", "parent_asin", "rating", "timestamp"]

# Of each reader: how it is called on two files, their names, and what a valid one holds.
READERS = {
    "recbole": (
        recbole.read, ("x.inter", "x.item"),
        (_delimited("\t", ATOMIC, EVENTS), _delimited("\t", ATOMIC_ITEM, TITLES)),
    ),
    "csv": (
        table.read, ("x.csv", "y.csv"),
        (_delimited(",", NAMES, EVENTS), b'item_id,title\ni0,"a ""b"", c"\ni1,d\n'),
    ),
    "tsv": (
        table.read, ("x.tsv", "y"),
        (_delimited("\t", NAMES, EVENTS), _delimited("|", ITEM_NAMES, TITLES)),
    ),
    "jsonl": (
        table.read, ("x.jsonl", "y.json"), (_json(NAMES, EVENTS), _json(ITEM_NAMES, TITLES)),
    ),
    "parquet": (
        table.read, ("x.parquet", "y.parquet"),
        (_parquet(NAMES, EVENTS), _parquet(ITEM_NAMES, TITLES)),
    ),
    "amazon2014": (
        lambda one, two: amazon.read(amazon.EDITION_2014, one, two), ("x.json.gz", "y.json.gz"),
        (_json(KEYS_2014, EVENTS), LITERALS),
    ),
    "amazon2023": (
        lambda one, two: amazon.read(amazon.EDITION_2023, one, two), ("x.jsonl", "y.jsonl"),
        (_json(KEYS_2023, EVENTS), _json(["parent_asin", *ITEM_NAMES[1:]], TITLES)),
    ),
    "movielens_100k": (
        lambda one, two: movielens.read(one.parent), ("u.data", "u.item"),
        (RATINGS, _delimited("|", MOVIES[0], MOVIES[1:])),
    ),
    "movielens_1m": (
        lambda one, two: movielens.read(one.parent), ("ratings.dat", "movies.dat"), (DAT, FILMS),
    ),
    "movielens_latest": (
        lambda one, two: movielens.read(one.parent), ("ratings.csv", "movies.csv"),
        (_delimited(",", ["userId", "movieId", *NAMES[2:]], EVENTS), LATEST),
    ),
    "movielens_archive": (
        lambda one, two: movielens.read(one), ("ml.zip", "unused"),
        (_zip(ratings_dat=DAT, movies_dat=FILMS), b"-"),
    ),
}  # fmt: skip

TOKENS = st.sampled_from(
    [
        b"", b"\0", b"\n", b"\r", b"\r\n", b"\t", b",", b"|", b"::", b'"', b"'", b"\\", b" ",
        b"\xff", b"\xed\xa0\x80", b"\\ud800", b"nan", b"NaN", b"Infinity", b"-inf", b"1e999",
        b"9" * 30, b"9" * 5000, b"1e18", b"9223372036854775808", b"18446744073709551615", b"true",
        b"null", b"None", b"2014-01-01", b"99999-01-01", b"0x10", b"1_0", b"[" * 3000, b"{" * 150,
        b"-" * 3000 + b"1", b"{}", b"[[]]", b"[]", b"()", b"b''", b"1j", b"...", b"{1: 2}",
        b"{[]: 1}", b"__import__('os').abort()", b"&#0;", b"&#xD800;", b"<b>", b"\x1f\x8b", b"\x1f",
        b"PK\x03\x04", b"user_id", b"item_id:token", b"title", b"key", b"\xc2\xa0", b"i0", b"u0",
        b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"-0.0", b"1e+05", b"3.0", b"nan}", b"BZh9", b"<script>",
        b'"a" b', b"2014-05-13 16:53:20 UTC", b"\xff\xfe", b"(\xb5/\xfd", b"{", b"[", b";", b"\\N",
    ]
)  # fmt: skip


@st.composite
def mutated(draw, valid):
    """A valid file after a few mutations, perhaps compressed, and perhaps damaged after that."""
    data = valid if draw(st.integers(0, 9)) else draw(st.binary(max_size=200))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(start + draw(st.sampled_from([0, 0, 1, 1, 2, 5, 20, 1000])), len(data))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            data = data[:start] + draw(TOKENS) + data[stop:]
        elif kind == 1:
            data = data[:start] + draw(st.binary(max_size=4)) + data[stop:]
        elif kind == 2:
            data = data[:stop] + data[start:]
        else:
            # A whole field or value, so that the rest of the line stays well-formed.
            fields = sorted({data[:start].rfind(mark) + 1 for mark in (b"\t", b",", b" ", b":")})
            data = data[: fields[-1]] + draw(TOKENS) + data[start:]
    if draw(st.integers(0, 3)) == 0:
        pack = draw(st.sampled_from([_gzip, _gzip, bz2.compress, lzma.compress, _zstd, _utf16]))
        data = pack(data)
        if draw(st.integers(0, 2)) == 0 and len(data) > 1:
            cut = draw(st.integers(1, len(data) - 1))
            data = data[:cut] + draw(st.binary(max_size=2)) + data[cut + draw(st.integers(0, 9)) :]
    return data


def check_whole(domain):
    """What every part of recalign may expect of a domain, whatever it was prepared from."""
    assert domain.num_users == len(domain.user_keys) == domain.statistics["users"]
    assert domain.offsets[-1] == len(domain.events) == domain.statistics["interactions"]
    assert (np.diff(domain.offsets) > 0).all()
    assert domain.events.dtype == np.int32
    assert ((domain.events >= 0) & (domain.events < domain.num_items)).all()
    assert domain.items["key"].is_unique
    assert len(set(domain.user_keys)) == domain.num_users
    assert all(isinstance(key, str) and key for key in (*domain.items["key"], *domain.user_keys))
    for column in ("title", "brand", "categories"):
        assert all(isinstance(text, str) and text.isprintable() for text in domain.items[column])
    if domain.ratings is not None:
        assert not np.isinf(domain.ratings).any()
    if domain.timestamps is not None:
        times = np.asarray(domain.timestamps, float)
        assert not np.isinf(times).any()
        for start, stop in zip(domain.offsets[:-1], domain.offsets[1:], strict=True):
            if not np.isnan(times[start:stop]).any():
                assert (np.diff(times[start:stop]) >= 0).all()


@pytest.mark.parametrize("name", READERS)
def test_a_whole_domain_or_one_clear_error(name):
    reader, names, valid = READERS[name]
    outcomes = {"domain": 0, "error": 0}

    @settings(
        max_examples=EXAMPLES,
        deadline=20_000,  # ms: what takes so long on a few hundred bytes hangs
        suppress_health_check=list(HealthCheck),
        derandomize=EXAMPLES <= 100,
        database=None,
    )
    @given(mutated(valid[0]), mutated(valid[1]))
    @example(*valid)  # hardly a Parquet file survives a mutation
    def run(one, two):
        # No fixture: hypothesis runs this many times in one test.
        root = Path(tempfile.mkdtemp(prefix="recalign-fuzz-"))
        try:
            (root / "in").mkdir()
            paths = [root / "in" / file for file in names]
            for path, data in zip(paths, (one, two), strict=True):
                path.write_bytes(data)
            request = prepare.Request(
                name="x", command=name, read=lambda: reader(*paths), data_dir=root / "data"
            )
            message, outcome = "", None
            try:
                outcome = prepare.prepare(request, lambda domain, folder: None)
            except UserError as error:
                message = str(error)
            there = sorted((root / "data").iterdir()) if (root / "data").exists() else []
            outcomes["domain" if outcome else "error"] += 1
            if outcome:
                check_whole(domains.load("x", root / "data"))
                assert there == [root / "data" / "x"]
                assert domains.list_prepared(root / "data") == ["x"]
            else:
                assert 0 < len(message) < 2000
                assert not there
            assert {file.name for file in root.iterdir()} <= {"data", "in"}
        finally:
            shutil.rmtree(root)

    run()
    # The mutations are neither so mild that all pass nor so wild that all fail.
    assert min(outcomes.values()) > 0, outcomes
