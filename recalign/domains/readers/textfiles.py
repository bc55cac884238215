"""Reading delimited text: plain or gzip, UTF-8, with errors that name file and line."""

import contextlib
import csv
import gzip
import hashlib
import io
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import pandas as pd
from etils import epath
from tqdm import tqdm

from recalign.domains.raw import Source
from recalign.errors import UserError, shown

_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = 1 << 20
_LARGE = 1 << 25  # reading it takes long enough to show how far it is


class _Counted(io.RawIOBase):
    """A file that tells a progress bar how much of it has been read."""

    def __init__(self, file: IO[bytes], bar: tqdm):
        self._file, self._bar = file, bar

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._bar.update(len(data))
        return len(data)


@contextlib.contextmanager
def opened(path: Path, remote: bool = False) -> Iterator[io.BufferedReader]:
    """A file opened to read its bytes, with a progress bar if it is large.

    The bar shows the share, rate and time left of the bytes read from disk; it keeps quiet where
    standard error is not a terminal.

    Args:
      path: the file.
      remote: whether it may be in a bucket (gs://…).

    Raises:
      UserError: the file cannot be opened, or cannot be read in the block.
    """
    path = epath.Path(path) if remote else Path(path)
    try:
        size = path.stat().length if remote else path.stat().st_size
        with (
            path.open("rb") as file,
            tqdm(
                total=size,
                desc=path.name,
                disable=None if size >= _LARGE else True,
                leave=False,
                unit="B",
                unit_scale=True,
            ) as bar,
        ):
            yield io.BufferedReader(_Counted(file, bar), _BLOCK)
    except (gzip.BadGzipFile, zlib.error) as error:  # the first is an OSError too
        raise UserError(f"{path}: the gzip file is damaged ({error}); fetch it again") from error
    except EOFError as error:
        raise UserError(f"{path}: the gzip file is truncated; fetch it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes.

    Raises:
      UserError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with opened(path, remote=True) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_bytes(path: Path) -> bytes:
    """A file's contents, decompressed if it is a gzip file, whatever its name.

    Raises:
      UserError: the file cannot be read, is empty, or is a truncated or damaged gzip.
    """
    data = io.BytesIO()
    with unzipped(path) as file:
        while block := file.read(_BLOCK):
            data.write(block)
    if not data.getbuffer().nbytes:
        raise UserError(f"{path}: the file is empty")
    return data.getvalue()


@contextlib.contextmanager
def unzipped(path: Path) -> Iterator[io.BufferedReader]:
    """A file opened to read its content, decompressed if it is a gzip file, whatever its name.

    Raises:
      UserError: the file cannot be read in the block, or is a truncated or damaged gzip.
    """
    with opened(path) as file:
        zipped = file.peek(2).startswith(_GZIP_MAGIC)
        yield io.BufferedReader(gzip.GzipFile(fileobj=file), _BLOCK) if zipped else file


def read_delimited(path: Path, separator: str, quoted: bool) -> Source:
    """Reads a table of text with a header line.

    Args:
      path: the file, gzip or not, UTF-8 with or without a byte order mark.
      separator: the field separator.
      quoted: whether a field may stand in double quotes (and then hold separators and line ends).
        Without, a quote is a character like any other.

    Returns:
      A source whose columns are all str, "" where a field is empty. Blank lines are skipped.

    Raises:
      UserError: naming file and line where something is wrong with the text.
    """
    return parse_delimited(path, read_bytes(path), separator, quoted)


def parse_delimited(
    path: Path | str,
    data: bytes,
    separator: str,
    quoted: bool,
    names: Sequence[str] | None = None,
) -> Source:
    """As `read_delimited`, of what a file holds.

    Args:
      path: for messages.
      data: the file's content, not compressed.
      separator: as for `read_delimited`.
      quoted: as for `read_delimited`.
      names: the columns of a table without a header line.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise UserError(f"{path}: the file is empty")
    _check_encoding(path, data)
    # A lone carriage return is part of a field, not a line end: titles of scraped data hold some.
    lines = {} if quoted else {"lineterminator": "\n"}
    if not quoted:
        data = data.replace(b"\r\n", b"\n")
    try:
        frame = pd.read_csv(
            io.BytesIO(data),
            sep=separator,
            dtype="str",
            keep_default_na=False,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            header=None,
            engine="c",
            **lines,
        )
    except pd.errors.EmptyDataError as error:  # a byte order mark or two
        raise UserError(f"{path}: the file is empty") from error
    except pd.errors.ParserError as error:
        raise UserError(f"{path}: {_explain(str(error))}") from error
    above = 1 if names is None else 0  # records above the rows
    header = frame.iloc[0].to_list() if names is None else list(names)
    if len(header) != frame.shape[1]:
        raise UserError(f"{path}, line 1 has {frame.shape[1]} fields, not {len(header)}")
    source = Source(
        path,
        frame.iloc[above:].reset_index(drop=True).set_axis(header, axis=1),
        lambda row: next(itertools.islice(_records(data, separator, quoted), row + above, None))[0],
    )
    _check_header(source)
    # The parser fills a short row up with empty fields; only then need the fields be counted.
    if (source.frame[header[-1]] == "").any():
        _refuse_short_rows(path, len(header), _records(data, separator, quoted))
    return source


def _check_encoding(path: Path, data: bytes) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; "
            f"convert the file, e.g. iconv -f LATIN1 -t UTF-8 {path}"
        ) from error


def _explain(message: str) -> str:
    match = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message)
    if match:
        expected, line, seen = match.groups()
        return f"line {line} has {seen} fields where the header has {expected}"
    if "EOF inside string" in message:
        row = re.search(r"row (\d+)", message)
        return f"a double quote is opened and never closed{' near row ' + row[1] if row else ''}"
    return message


def _check_header(source: Source) -> None:
    header = list(source.frame.columns)
    if any(not name.strip() for name in header):
        raise UserError(
            f"{source.path}, line 1: a column of the header has no name: {shown(header)}"
        )
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise UserError(f"{source.path}, line 1: the header names {shown(twice[0])} more than once")
    if source.frame.empty:
        raise UserError(f"{source.path}: there is a header but no rows")


def _refuse_short_rows(path: Path, width: int, records: Iterator[tuple[int, int]]) -> None:
    for line, fields in records:
        if fields < width:
            raise UserError(f"{path}, line {line} has {fields} fields where the header has {width}")


def _records(data: bytes, separator: str, quoted: bool) -> Iterator[tuple[int, int]]:
    """Of each record, the header included: its first line, from 1, and how many fields it has."""
    text = data.decode("utf-8")
    if not quoted:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip(" "):  # blank lines are no records
                yield number, line.count(separator) + 1
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    start = 1
    for fields in reader:
        if len(fields) > 1 or "".join(fields).strip():
            yield start, len(fields)
        start = reader.line_num + 1
