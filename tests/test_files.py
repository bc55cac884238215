"""A file in a bucket is there whole, the old one or the new one, whatever happens to the upload."""

import contextlib
import hashlib
import os
import threading

import pytest

from recalign import files
from recalign.errors import UserError
from tests.buckets import cutting, muting, refusing, slow

BUCKET = files.locate("gs://bucket")
LARGE = bytes(range(256)) * 4000


@pytest.mark.parametrize(
    "fault",
    [refusing(2), refusing(1, 429), cutting(2), muting(1), slow(0.05)],
    ids=["refusing", "throttling", "cutting", "muting", "slow"],
)
def test_a_bucket_that_falters_is_asked_again(bucket, fault):
    path = BUCKET / "run/file"
    with bucket.failing(fault):
        files.write_bytes(path, LARGE)
        assert files.read_bytes(path) == LARGE
        with files.replacing(path) as draft:
            draft.write_bytes(LARGE * 6)  # which is put in parts
        assert files.read_bytes(path) == LARGE * 6
    assert bucket.names() == ["run/file"]


def test_an_upload_that_never_ends_leaves_the_old_file(bucket):
    path = BUCKET / "run/file"
    files.write_text(path, "old")
    with bucket.failing(cutting(100)) as struck:
        with pytest.raises(OSError, match="gs://bucket/run/file"):
            files.write_text(path, "new")
        with pytest.raises(OSError, match="gs://bucket/run/file"), files.replacing(path) as draft:
            draft.write_text("new")
    assert len(struck) > 5
    assert path.read_text() == "old"
    assert bucket.names() == ["run/file"]


def test_a_block_that_fails_writes_nothing(bucket):
    with contextlib.suppress(ZeroDivisionError), files.replacing(BUCKET / "file") as draft:
        draft.write_text("half")
        raise ZeroDivisionError
    with contextlib.suppress(ZeroDivisionError), files.filling(BUCKET) as folder:
        (folder / "file").write_text("half")
        raise ZeroDivisionError
    assert bucket.names() == []


def test_what_is_refused_for_good_is_told(bucket):
    with bucket.failing(refusing(100, 403)):
        with pytest.raises(UserError, match="gs://bucket/file: cannot be read: Forbidden"):
            files.read_bytes(BUCKET / "file")
        with pytest.raises(OSError, match="Forbidden"):
            files.write_text(BUCKET / "file", "text")


@pytest.mark.parametrize("place", ["local", "bucket"])
def test_folders_there_and_here(bucket, tmp_path, place):
    folder = tmp_path / "folder" if place == "local" else BUCKET / "folder"
    files.make_folder(folder)
    with files.filling(folder) as local:
        (local / "deep").mkdir()
        (local / "deep/one").write_bytes(LARGE)
        (local / "two").touch()
    assert files.list_files(folder) == {"deep/one": len(LARGE), "two": 0}
    with files.local_copy(folder) as local:
        assert (local / "deep/one").read_bytes() == LARGE
    for kind in ("md5", "sha256"):
        expected = hashlib.new(kind, LARGE).hexdigest()
        assert files.hash_file(folder / "deep/one", kind) == expected
    assert files.list_files(folder / "none") == {}


def test_a_bucket_tells_a_hash_without_being_read(bucket):
    files.write_bytes(BUCKET / "file", LARGE)
    with bucket.failing(refusing(9, 403, lambda request: request.query.get("alt") == "media")):
        assert files.hash_file(BUCKET / "file", "md5") == hashlib.md5(LARGE).hexdigest()
        with pytest.raises(OSError, match="Forbidden"):
            files.hash_file(BUCKET / "file", "sha256")


def test_of_several_that_create_a_file_one_does(bucket):
    assert files.create(BUCKET / "file", "one")
    assert not files.create(BUCKET / "file", "other")
    assert (BUCKET / "file").read_text() == "one"
    with bucket.failing(muting(1)):
        assert not files.create(BUCKET / "silent", "one")
    assert (BUCKET / "silent").read_text() == "one"


def test_a_path_in_a_bucket_stays_one():
    for path in (files.locate("gs://bucket/a/b"), files.resolve("gs://bucket/a/b")):
        assert str(path) == "gs://bucket/a/b"
        assert str(path / "c") == "gs://bucket/a/b/c"


@pytest.mark.parametrize("find", [files.locate, files.resolve])
def test_the_home_folder_is_one_place_for_all_that_ask(find, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert str(find("~/runs/a").absolute()) == str(tmp_path / "runs" / "a")
    # Whose home is nobody's is a name like another: "~$orders.xlsx", say.
    assert str(find("~nobody-of-that-name/x").absolute()) == str(
        tmp_path / "~nobody-of-that-name/x"
    )


@pytest.mark.parametrize("find", [files.locate, files.resolve])
@pytest.mark.parametrize("path", ["s3://bucket/x", "https://a.org/x", "file:///x", "hdfs://x/y"])
def test_other_places_than_local_disk_and_buckets_are_told(find, path):
    with pytest.raises(UserError, match=rf"{path}: only local paths and gs://… are known"):
        find(path)


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").write_text("old")
    link = tmp_path / "link"
    link.symlink_to("there/file")
    files.write_text(link, "new")
    assert link.is_symlink()
    assert (tmp_path / "there/file").read_text() == "new"
    assert os.listdir(tmp_path / "there") == ["file"]


def test_what_is_no_file_is_written_into_and_stays(tmp_path):
    """A pipe stands for a device: to take its place would harm all that use it."""
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    with files.replacing(pipe) as draft:
        draft.write_text("text")
    reader.join(10)
    assert read == ["text"]
    assert pipe.is_fifo()
    with contextlib.suppress(ZeroDivisionError), files.replacing(pipe) as draft:
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["pipe"]


def test_of_two_that_replace_a_file_at_once_each_writes_its_own(tmp_path):
    path = tmp_path / "file"
    with files.replacing(path) as one, files.replacing(path) as other:
        one.write_text("one, which is longer")
        other.write_text("other")
    assert path.read_text() == "one, which is longer"  # its block ends last
    assert os.listdir(tmp_path) == ["file"]
