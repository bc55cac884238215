"""Domains on disk: round trip, where they are looked for, and nothing half-written."""

import dataclasses
import hashlib
import json
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recalign import domains
from recalign.domains import digest, storage
from recalign.domains.assemble import assemble
from recalign.errors import UserError
from recalign.files import list_files, read_parquet
from tests.commands import run


def save(domain, folder):
    folder.mkdir(parents=True)
    statistics = {"recalign_version": "0", "users": domain.num_users, "title": "Crème"}
    storage.write(dataclasses.replace(domain, statistics=statistics), folder)


def same(one, two):
    pd.testing.assert_frame_equal(one.items, two.items, check_dtype=False)
    np.testing.assert_array_equal(one.user_keys, two.user_keys)
    for field in ("offsets", "events", "ratings", "timestamps"):
        first, second = getattr(one, field), getattr(two, field)
        if first is None:
            assert second is None
        else:
            assert first.dtype == second.dtype
            np.testing.assert_array_equal(first, second)


def test_round_trip(small, tmp_path):
    save(small, tmp_path / "small")
    loaded = domains.load("small", tmp_path)
    same(small, loaded)
    assert loaded.statistics["title"] == "Crème"
    assert loaded.path == tmp_path / "small"
    assert not (loaded.path / "spiece.model").exists()
    (tmp_path / "small" / "spiece.model").write_bytes(b"")
    assert (loaded.path / "spiece.model").exists()


def test_where_a_large_domain_is_cut_has_no_say(small, tmp_path, monkeypatch):
    whole = digest.digest(small)
    monkeypatch.setattr(storage, "_GROUP_ROWS", 2)
    monkeypatch.setattr(digest, "_ROWS", 2)
    save(small, tmp_path / "small")
    loaded = domains.load("small", tmp_path)
    same(small, loaded)
    assert digest.digest(small) == digest.digest(loaded) == whole


def test_round_trip_with_missing_times_and_ratings(small, tmp_path):
    times = small.timestamps.astype(float)
    times[2] = np.nan
    holes = dataclasses.replace(small, timestamps=times)
    save(holes, tmp_path / "holes")
    same(holes, domains.load("holes", tmp_path))
    stored = pd.read_parquet(tmp_path / "holes" / "interactions.parquet", dtype_backend="pyarrow")
    assert stored["timestamp"].isna().sum() == 1
    bare = dataclasses.replace(small, timestamps=None, ratings=None)
    save(bare, tmp_path / "bare")
    same(bare, domains.load("bare", tmp_path))


def test_the_same_domain_gives_the_same_bytes(small, tmp_path):
    digests = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        save(small, folder)
        digests.append(
            {f.name: hashlib.sha256(f.read_bytes()).digest() for f in sorted(folder.iterdir())}
        )
    assert digests[0] == digests[1]
    assert len(digests[0]) == 6


def test_what_is_drawn_later_is_drawn_by_the_same_seed(raw, tmp_path):
    events = [("u", f"i{n}", n) for n in range(5)]
    items = [(f"i{n}", "") for n in range(200)]
    domain = assemble(raw(events, items), "seeded", seed=7)
    save(domain, tmp_path / "seeded")
    loaded = domains.load("seeded", tmp_path)
    assert loaded.seed == 7
    drawn = np.concatenate([*loaded.draw_candidates("test")[1]])
    np.testing.assert_array_equal(drawn, loaded.candidates("test"))
    # Of a domain that was prepared before the seed stood beside the rest, the options tell it.
    path = tmp_path / "seeded" / "statistics.json"
    statistics = json.loads(path.read_text())
    del statistics["seed"]
    path.write_text(json.dumps(statistics | {"options": {"seed": 7}}))
    assert domains.load("seeded", tmp_path).seed == 7


def test_a_domain_is_read_once_and_again_when_it_is_another(small, tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(
        storage, "read_parquet", lambda path: reads.append(path.name) or read_parquet(path)
    )
    save(small, tmp_path / "small")
    first = domains.load("small", tmp_path)
    assert domains.load("small", str(tmp_path)) is first
    assert sorted(reads) == ["interactions.parquet", "items.parquet"]
    with pytest.raises(ValueError, match="read-only"):
        first.events[0] = 1
    other = dataclasses.replace(small, events=small.events[::-1].copy())
    with storage.replacing(tmp_path / "small", overwrite=True) as folder:
        statistics = {"recalign_version": "0", "users": other.num_users, "title": "Crème"}
        storage.write(dataclasses.replace(other, statistics=statistics), folder)
    np.testing.assert_array_equal(domains.load("small", tmp_path).events, other.events)
    np.testing.assert_array_equal(first.events, small.events)


def test_the_interactions_file_is_plain(small, tmp_path):
    save(small, tmp_path / "small")
    frame = pd.read_parquet(tmp_path / "small" / "interactions.parquet")
    assert frame.columns.tolist() == ["user", "item", "timestamp", "rating", "rating_part"]
    assert frame["user"].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2]
    assert frame["timestamp"].tolist() == [0, 1, 2, 3, 4, 1, 2, 3, 9]


def test_a_domain_that_is_not_prepared(small, tmp_path):
    save(small, tmp_path / "b")
    save(small, tmp_path / "a")
    (tmp_path / "other").mkdir()
    (tmp_path / ".a.partial-1").mkdir()
    assert domains.list_prepared(tmp_path) == ["a", "b"]
    with pytest.raises(UserError) as error:
        domains.load("beauty", data_dir=tmp_path)
    assert str(error.value) == (
        f"domain 'beauty' is not prepared in {tmp_path}: run `recalign prepare …`; "
        "prepared there: a, b"
    )
    with pytest.raises(UserError, match="prepared there: none"):
        domains.load("beauty", tmp_path / "nowhere")


def test_data_dir(monkeypatch, tmp_path):
    monkeypatch.delenv("RECALIGN_DATA_DIR", raising=False)
    assert domains.data_dir() == Path.home() / ".cache" / "recalign"
    monkeypatch.setenv("RECALIGN_DATA_DIR", str(tmp_path))
    assert domains.data_dir() == tmp_path
    assert domains.data_dir("~/x") == Path.home() / "x"


@pytest.mark.parametrize("name", ["", "Beauty", "1shop", "my-shop", "my shop", "../x", "a\n", "é"])
def test_names_that_cannot_be(name):
    with pytest.raises(UserError, match="cannot name a domain"):
        storage.check_name(name)


def test_replacing_takes_the_place_only_when_all_went_well(tmp_path):
    target = tmp_path / "new" / "shop"
    with storage.replacing(target, overwrite=False) as folder:
        (folder / "x").write_text("1")
        assert not target.exists()
    assert (target / "x").read_text() == "1"
    with storage.replacing(target, overwrite=True) as folder:
        (folder / "x").write_text("2")
        assert (target / "x").read_text() == "1"
    assert (target / "x").read_text() == "2"
    assert [f.name for f in target.parent.iterdir()] == ["shop"]


def fail(target, error, overwrite=True):
    with storage.replacing(target, overwrite) as folder:
        (folder / "x").write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt()])
def test_replacing_leaves_the_old_one_when_something_fails(tmp_path, error):
    target = tmp_path / "shop"
    with pytest.raises(type(error)):
        fail(target, error)
    assert list(tmp_path.iterdir()) == []
    target.mkdir()
    (target / "x").write_text("old")
    with pytest.raises(type(error)):
        fail(target, error)
    assert (target / "x").read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["shop"]


def test_replacing_does_not_take_a_place_that_was_taken_meanwhile(tmp_path):
    target = tmp_path / "shop"

    def race():
        with storage.replacing(target, overwrite=False):
            target.mkdir()
            (target / "x").write_text("theirs")

    with pytest.raises(UserError, match="appeared while"):
        race()
    assert (target / "x").read_text() == "theirs"
    assert [f.name for f in tmp_path.iterdir()] == ["shop"]


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")

    def write():
        with storage.replacing(tmp_path / "file" / "shop", overwrite=False):
            pass

    with pytest.raises(UserError, match="cannot be written to"):
        write()


def test_a_domain_in_a_bucket_is_the_same(small, tmp_path, bucket):
    save(small, tmp_path / "small")
    for name in list_files(tmp_path / "small"):
        bucket.write(f"domains/small/{name}", (tmp_path / "small" / name).read_bytes())
    here, there = domains.load("small", tmp_path), domains.load("small", "gs://bucket/domains")
    same(here, there)
    np.testing.assert_array_equal(here.candidates("test"), there.candidates("test"))
    with pytest.raises(UserError, match="prepared there: small"):
        domains.load("large", "gs://bucket/domains")


def test_a_bucket_is_read_from_but_not_written_to():
    assert str(domains.data_dir("gs://bucket/domains") / "shop") == "gs://bucket/domains/shop"
    with (
        pytest.raises(UserError, match="prepared on local disk"),
        storage.replacing(domains.data_dir("gs://bucket") / "shop", overwrite=False),
    ):
        pass


def test_no_file_is_opened_by_numpy_in_two_threads_at_once(tmp_path, monkeypatch):
    """It reads a file's header by Python's parser, which in 3.11 two threads at once can break."""
    threads, load = set(), np.load

    def watch(*arguments, **options):
        threads.add(threading.current_thread())
        return load(*arguments, **options)

    monkeypatch.setattr(np, "load", watch)
    run("prepare", "toyshop", "--users", 30, "--items", 30, "--data_dir", tmp_path)
    assert threads == {threading.main_thread()}
