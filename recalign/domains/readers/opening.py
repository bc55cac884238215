"""What a path stands for, and what the files hold: unpacked, and text as UTF-8.

A path is a file, a folder of parts, a pattern (`part-*.csv`), or `-` for standard input. This is
the one place where readers open files, so that what one of them can open all of them can.
"""

import bz2
import codecs
import contextlib
import functools
import glob
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePath
from typing import IO

import pyarrow as pa

from recalign.errors import UserError, quote
from recalign.files import in_bucket, locate
from recalign.progress import Progress

STANDARD_INPUT = Path("-")
# What reading a damaged file of one of the compressions raises, some as an OSError without number.
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
)
# What opening a damaged archive raises.
BROKEN_ARCHIVE = (
    *_DAMAGE,
    NotImplementedError,  # a compression that Python does not know
    RuntimeError,  # encrypted
    ValueError,
    OverflowError,
)
_BLOCK = 1 << 20
_LARGE = 1 << 25  # reading it takes long enough to show how far it is
# A compressed archive has two; a file that unpacks into itself would have no end of them.
_LAYERS = 2


def find_parts(path: Path, suffixes: Collection[str] = ()) -> list[Path]:
    """The files that a path stands for.

    Of a folder, at any depth, those with one of the suffixes, or all where none has. What is empty
    or has a name that begins with "." or "_" is a mark (`_SUCCESS`) and no part. Parts are in the
    order of their names, numbers in them in that of their values.

    Args:
      path: a file, a folder, a pattern, local or in a bucket (gs://…), or `STANDARD_INPUT`. In a
        bucket the last part of it alone may be a pattern.
      suffixes: in lower case; ".csv" fits "x.csv" and "x.CSV.gz".

    Raises:
      UserError: there is no such file, or the folder has none.
    """
    path = locate(path)
    try:
        there = path == STANDARD_INPUT or path.exists()
    except OSError as error:  # a name that is too long, a folder that is not ours
        raise UserError(f"{quote(str(path))}: cannot be read: {error.strerror or error}") from error
    if there and not path.is_dir():
        return [path]
    if path.is_dir():
        if (path / "_delta_log").is_dir():
            raise UserError(
                f"{path}: a table of Delta Lake, whose files keep rows that are deleted from it; "
                "write what it holds now as Parquet"
            )
        root, found = path, _walk(path)
    else:
        fitting = path.parent.glob(path.name) if in_bucket(path) else _glob(path)
        root, found = None, [part for one in fitting for part in _walk(one)]
    files = [file for file in found if _is_part(file, root)]
    if not files:
        what = "there is no file in it" if path.is_dir() else "No such file or directory"
        raise UserError(f"{path}: cannot be read: {what}")
    fitting = [f for f in files if {s.lower() for s in f.suffixes[-2:]} & {*suffixes}]
    return sorted(set(fitting or files), key=_by_name)


def _glob(path: Path) -> Iterator[Path]:
    return map(Path, glob.glob(str(path), recursive=True))


def _walk(path: Path) -> Iterator[Path]:
    """What a folder holds, at any depth; of a file, itself."""
    if not path.is_dir():
        yield path
    elif in_bucket(path):
        for one in path.iterdir():
            yield from _walk(one)
    else:
        seen = set()  # links may lead in a circle
        for folder, below, names in os.walk(path, followlinks=True):
            seen.add(os.path.realpath(folder))
            below[:] = [n for n in below if os.path.realpath(Path(folder, n)) not in seen]
            yield from (Path(folder, name) for name in names)


def _is_part(file: Path, root: Path | None) -> bool:
    below = file.relative_to(root) if root else file.name
    beside = is_marked(below) or file.name in _BESIDE
    return not beside and file.is_file() and _size(file) > 0


def is_marked(path: PurePath | str) -> bool:
    """Whether a file, or a folder that it lies in, is something beside the data."""
    return any(n.startswith((".", "_")) and n != ".." for n in PurePath(path).parts)


def _by_name(path: Path) -> list[tuple[int, str]]:
    words = re.split(r"(\d+)", str(path))  # text and digits in turn
    return [(int(word), "") if word.isdigit() else (0, word) for word in words]


class _Counted(io.RawIOBase):
    """A file that tells how much of it has been read."""

    def __init__(self, file: IO[bytes], progress: Progress):
        self._file, self._progress = file, progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._progress.update(len(data))
        return len(data)


class _Recoded(io.RawIOBase):
    """A text in another encoding, as UTF-8."""

    def __init__(self, file: io.BufferedReader, encoding: str):
        self._file, self._decoder = file, codecs.getincrementaldecoder(encoding)()
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while not self._rest:
            block = self._file.read(_BLOCK)
            self._rest = self._decoder.decode(block, final=not block).encode()
            if not block:
                break
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[io.BufferedReader]:
    """A file, local, in a bucket (gs://…) or a pipe, opened to read its bytes.

    Of a large file, the share, rate and time left of the bytes read from disk are shown.

    Raises:
      UserError: the file cannot be opened, or what is read in the block is damaged.
    """
    path = locate(path)
    try:
        with (
            _reopen(path) as file,
            Progress(path.name, size := _size(path), "B", shown=size >= _LARGE) as progress,
        ):
            yield io.BufferedReader(_Counted(file, progress), _BLOCK)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in {error.encoding}: {error.reason}") from error
    except _DAMAGE as error:
        raise _explain(path, error) from error


def _explain(path: Path, error: Exception) -> UserError:
    if isinstance(error, OSError) and error.errno is not None:
        return UserError(f"{path}: cannot be read: {error.strerror or error}")
    truncated = isinstance(error, EOFError) or "truncated" in str(error).lower()
    damage = "is truncated" if truncated else f"is damaged ({error})"
    return UserError(f"{path}: the compressed file {damage}; fetch it again")


@contextlib.contextmanager
def _reopen(path: Path) -> Iterator[IO[bytes]]:
    """A file from its beginning, also one that can be read only once."""
    if path == STANDARD_INPUT or (not in_bucket(path) and path.is_fifo()):
        file = _keep(path, sys.stdin)
        file.seek(0)
        yield file
    else:
        with path.open("rb") as file:
            yield file


@functools.lru_cache(maxsize=8)
def _keep(path: Path, stdin: IO[str]) -> IO[bytes]:
    """What comes through a pipe: it is hashed, and then read."""
    kept = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process runs)
    if path == STANDARD_INPUT:
        shutil.copyfileobj(stdin.buffer, kept)
    else:
        with path.open("rb") as pipe:
            shutil.copyfileobj(pipe, kept)
    return kept


def _size(path: Path) -> int:
    """In bytes; 0 for what cannot tell."""
    if path == STANDARD_INPUT:
        return 0
    found = path.stat()
    return found.length if hasattr(found, "length") else found.st_size


def hash_source(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes, or of those of several parts one by one.

    Raises:
      UserError: a file cannot be read.
    """
    digests = []
    for part in find_parts(path):
        with open_file(part) as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


@contextlib.contextmanager
def open_content(path: Path) -> Iterator[io.BufferedReader]:
    """A file opened to read what it holds, unpacked whatever its name, in UTF-8 if it is UTF-16.

    Raises:
      UserError: the file cannot be read in the block, or is truncated or damaged.
    """
    with open_file(path) as file:
        for _ in range(_LAYERS):
            unpack = _find_packing(file)
            if unpack is None:
                break
            try:
                file = io.BufferedReader(unpack(file), _BLOCK)
            except LookupError as error:
                raise UserError(f"{path}: {error}") from error
            except BROKEN_ARCHIVE as error:
                raise _explain(path, error) from error
        # UTF-16 and UTF-32 are known by their byte order mark, or by the zeros of a first letter.
        head = file.peek(_TAR[0])
        if other := next((what for mark, what in _NO_DATA.items() if mark.match(head)), None):
            raise UserError(f"{path}: {other}")
        encoding = json.detect_encoding(head[:4])
        if encoding == "utf-8-sig":
            file.read(3)
        elif encoding != "utf-8":
            file = io.BufferedReader(_Recoded(file, encoding), _BLOCK)
        yield file


def read_content(path: Path) -> bytes:
    """What a file holds, as of `open_content`.

    Raises:
      UserError: the file cannot be read, is empty, or is truncated or damaged.
    """
    data = io.BytesIO()
    with open_content(path) as file:
        shutil.copyfileobj(file, data, _BLOCK)
    if not data.getbuffer().nbytes:
        raise UserError(f"{path}: the file is empty")
    return data.getvalue()


def _find_packing(file: io.BufferedReader) -> Callable[[IO[bytes]], IO[bytes]] | None:
    """What unpacks a file, by what it begins with; None for what is not packed."""
    head = file.peek(_TAR[0] + len(_TAR[1]))
    if head[_TAR[0] :].startswith(_TAR[1]):
        return _open_only_tar_member
    return next((unpack for mark, unpack in _PACKINGS.items() if head.startswith(mark)), None)


def _open_only_zip_member(file: IO[bytes]) -> IO[bytes]:
    archive = zipfile.ZipFile(io.BytesIO(file.read()))
    return archive.open(_only([m.filename for m in archive.infolist() if not m.is_dir()]))


def _open_only_tar_member(file: IO[bytes]) -> IO[bytes]:
    archive = tarfile.open(fileobj=io.BytesIO(file.read()))  # noqa: SIM115 (the reader closes it)
    return archive.extractfile(_only([m.name for m in archive.getmembers() if m.isfile()]))


def _only(names: list[str]) -> str:
    """The one file of an archive; a LookupError that lists them where there are others."""
    if "[Content_Types].xml" in names:
        raise LookupError("a workbook or document of an office program; save its table as CSV")
    files = [name for name in names if not is_marked(name)] or names
    if len(files) != 1:
        some = "".join(f", {quote(name)}" for name in files[:5])
        raise LookupError(
            f"an archive of {len(files)} files{some}: extract it and give the one that is meant"
        )
    return files[0]


_TAR = (257, b"ustar")  # where an archive has which mark
_PACKINGS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"(\xb5/\xfd": lambda file: pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"),
    b'\x04"M\x18': lambda file: pa.CompressedInputStream(pa.PythonFile(file, "r"), "lz4"),
    b"PK\x03\x04": _open_only_zip_member,
    b"PK\x05\x06": _open_only_zip_member,  # an empty one
}
# What Hugging Face's datasets write beside their parts.
_BESIDE = ("dataset_info.json", "state.json")
# What stands where data should, by what it begins with.
_NO_DATA = {
    re.compile(rb"\s*<(?:!doctype html|html)\b", re.IGNORECASE): (
        "a web page, perhaps one that says why the file was not sent: fetch it again"
    ),
    re.compile(rb"version https://git-lfs"): "a pointer of Git LFS, not the file: run git lfs pull",
    re.compile(rb"SQLite format 3\0"): "a database of SQLite; export its table as CSV",
    re.compile(rb"7z\xbc\xaf|Rar!|\x1f\x9d"): "packed in a way not known here; unpack it first",
    re.compile(rb"\xd0\xcf\x11\xe0"): "a workbook of an office program; save its table as CSV",
}
