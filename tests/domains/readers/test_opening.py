"""What a path may stand for, and what a file may be packed in: the same content each time."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile
import threading
import zipfile

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.domains.readers import opening
from recalign.errors import UserError

TEXT = "user_id,item_id\n" + "u1,Crème\n" * 500


def pack_lz4(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "lz4") as file:
        file.write(data)
    return sink.getvalue().to_pybytes()


def pack_zip(data, names=("x.csv",)):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for hidden in ("__MACOSX/._x.csv", ".DS_Store", "folder/._x.csv"):
            archive.writestr(hidden, b"-")
        for name in names:
            archive.writestr(name, data)
    return file.getvalue()


def pack_tar(data, mode="w"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        member = tarfile.TarInfo("folder/x.csv")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


PACKINGS = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "two gzips in a row": lambda data: gzip.compress(data[:10]) + gzip.compress(data[10:]),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: pa.compress(data, "zstd", asbytes=True),
    "lz4": pack_lz4,
    "zip": pack_zip,
    "tar": pack_tar,
    "tar.gz": lambda data: pack_tar(data, "w:gz"),
    "gzip twice": lambda data: gzip.compress(gzip.compress(data)),
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]


@pytest.mark.parametrize("packing", PACKINGS)
def test_packings_are_known_by_what_they_begin_with(put, packing):
    path = put("anything", PACKINGS[packing](TEXT.encode()))
    assert opening.read_content(path).decode() == TEXT


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("packing", ["plain", "gzip"])
def test_text_comes_as_utf8(put, packing, encoding):
    path = put("x", PACKINGS[packing](TEXT.encode(encoding)))
    assert opening.read_content(path).decode() == TEXT


@given(
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=2),
    st.sampled_from(["gzip", "bzip2", "xz", "zstd", "lz4", "zip", "tar"]),
    st.sampled_from(ENCODINGS),
)
def test_any_text_in_any_encoding_and_packing(tmp_path_factory, text, packing, encoding):
    text = "id" + text
    path = tmp_path_factory.mktemp("x") / "file"
    path.write_bytes(PACKINGS[packing](text.encode(encoding)))
    assert opening.read_content(path).decode() == text


@pytest.mark.parametrize("packing", [p for p in PACKINGS if p not in ("plain", "tar")])
def test_a_cut_or_damaged_file_is_one_clear_error(put, packing):
    data = os.urandom(2000).hex().encode()  # nothing that packs into a line
    whole = PACKINGS[packing](data)
    paths = [put("cut", whole[: len(whole) // 2])]
    if packing not in ("zstd", "lz4"):  # those that have a checksum
        paths.append(put("damaged", whole[:200] + bytes(50) + whole[250:]))
    for path in paths:
        with pytest.raises(UserError, match=f"{path}: .*(truncated|damaged)") as error:
            opening.read_content(path)
        assert len(str(error.value)) < 300


def test_an_archive_of_several_files_tells_them(put):
    path = put("x.zip", pack_zip(b"a,b\n", ["one.csv", "two.csv"]))
    with pytest.raises(UserError, match=r"archive of 2 files, 'one\.csv', 'two\.csv': extract"):
        opening.read_content(path)


def test_an_archive_of_no_file(put):
    with pytest.raises(UserError, match="an archive of 0 files"):
        opening.read_content(put("x.zip", b"PK\5\6" + bytes(18)))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<!DOCTYPE html>\n<html><title>404</title>", "a web page"),
        (b"\n<HTML lang=en>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "git lfs pull"),
        (b"SQLite format 3\0" + bytes(100), "a database of SQLite"),
        (b"7z\xbc\xaf\x27\x1c", "unpack it first"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "save its table as CSV"),
    ],
)
@pytest.mark.parametrize("packing", ["plain", "gzip"])
def test_what_stands_where_data_should(put, content, told, packing):
    path = put("x.csv.gz", PACKINGS[packing](content))
    with pytest.raises(UserError, match=f"{path}: .*{told}"):
        opening.read_content(path)


def test_a_workbook_is_told_to_be_saved_as_text(put):
    path = put("x.xlsx", pack_zip(b"<xml/>", ["[Content_Types].xml", "xl/workbook.xml"]))
    with pytest.raises(UserError, match="save its table as CSV"):
        opening.read_content(path)


def test_what_is_no_text_in_its_encoding(put):
    with pytest.raises(UserError, match="not text in utf-16"):
        opening.read_content(put("x", TEXT.encode("utf-16")[:-1]))


def test_a_table_of_delta_lake_is_more_than_its_files(put, tmp_path):
    put("part-0.parquet", "x")
    (tmp_path / "_delta_log").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path}: a table of Delta Lake"):
        opening.find_parts(tmp_path)


def test_a_folder_is_its_parts_in_the_order_of_their_numbers(put, tmp_path):
    for name in ("part-10.csv", "part-9.csv", "deep/part-1.CSV.gz", "note.txt", "_SUCCESS.csv"):
        (tmp_path / "deep").mkdir(exist_ok=True)
        put(name, "x")
    put(".part-9.csv.crc", "x")
    put("part-11.csv", "")
    names = [part.name for part in opening.find_parts(tmp_path, [".csv"])]
    assert names == ["part-1.CSV.gz", "part-9.csv", "part-10.csv"]
    # Where no name tells, all are parts.
    assert len(opening.find_parts(tmp_path, [".parquet"])) == 4
    assert [p.name for p in opening.find_parts(tmp_path / "part-*.csv")] == names[1:]
    assert [p.name for p in opening.find_parts(tmp_path / "d*")] == names[:1]
    assert opening.find_parts(tmp_path / "note.txt", [".csv"]) == [tmp_path / "note.txt"]


def test_a_name_with_the_signs_of_a_pattern_is_a_name(put):
    path = put("part[1].csv", "x")
    assert opening.find_parts(path) == [path]


def test_where_there_is_no_file(tmp_path):
    (tmp_path / "empty").mkdir()
    for path, words in (
        (tmp_path / "empty", "there is no file in it"),
        (tmp_path / "none.csv", "No such file"),
        (tmp_path / "none-*.csv", "No such file"),
    ):
        with pytest.raises(UserError, match=words):
            opening.find_parts(path)


def test_links_to_folders_are_followed_and_may_lead_in_a_circle(put, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "here").mkdir()
    put("far/b.csv", "x")
    put("here/a.csv", "x")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "here")
    assert [p.name for p in opening.find_parts(tmp_path / "here")] == ["a.csv", "b.csv"]


@pytest.mark.parametrize("path", ["x" * 5000, "s3://bucket/x", "https://a.org/x", "file:///x"])
def test_paths_that_cannot_be(path):
    with pytest.raises(UserError, match=r"cannot be read|only local paths and gs://"):
        opening.find_parts(path)


def test_the_hash_of_parts_is_of_their_content_and_order(put, tmp_path):
    one, two = put("1.csv", "a"), put("2.csv", "b")
    both = opening.hash_source(tmp_path)
    assert len({both, opening.hash_source(one), opening.hash_source(two)}) == 3
    two.rename(tmp_path / "0.csv")
    assert opening.hash_source(tmp_path) != both
    (tmp_path / "0.csv").rename(tmp_path / "3.csv")
    assert opening.hash_source(tmp_path) == both


def test_a_pipe_is_hashed_and_then_read(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(gzip.compress(TEXT.encode())))
    writer.start()
    digest = opening.hash_source(path)
    assert opening.read_content(path).decode() == TEXT
    assert opening.hash_source(path) == digest
    writer.join()


def test_standard_input_is_hashed_and_then_read():
    program = (
        "from recalign.domains.readers import opening; p = opening.STANDARD_INPUT\n"
        "print(opening.hash_source(p) == opening.hash_source(p), len(opening.read_content(p)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=bz2.compress(TEXT.encode()), capture_output=True
    )
    assert done.stdout.split() == [b"True", str(len(TEXT.encode())).encode()], done.stderr
