"""Reading delimited text: plain or gzip, UTF-8, with errors that name file and line."""

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from recalign.domains.raw import Source
from recalign.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def read_bytes(path: Path) -> bytes:
    """A file's contents, decompressed if it is a gzip file, whatever its name.

    Raises:
      UserError: the file cannot be read, is empty, or is a truncated or damaged gzip.
    """
    try:
        data = Path(path).read_bytes()
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
    except EOFError as error:
        raise UserError(f"{path}: the gzip file is truncated; fetch it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: the gzip file is damaged ({error}); fetch it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if not data.strip():
        raise UserError(f"{path}: the file is empty")
    return data


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
    data = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    _check_encoding(path, data)
    # A lone carriage return is part of a field, not a line end: titles of scraped data hold some.
    lines = {} if quoted else {"lineterminator": "\n"}
    if not quoted:
        data = data.replace(b"\r\n", b"\n")
    try:
        frame = pd.read_csv(
            io.BytesIO(data),
            sep=separator,
            dtype=object,
            keep_default_na=False,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            header=None,
            engine="c",
            **lines,
        )
    except pd.errors.ParserError as error:
        raise UserError(f"{path}: {_explain(str(error))}") from error
    header = frame.iloc[0].to_list()
    source = Source(
        path,
        frame.iloc[1:].reset_index(drop=True).set_axis(header, axis=1),
        lambda row: _line_of_record(data, separator, quoted, row + 1),
    )
    _check_shape(source)
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


def _check_shape(source: Source) -> None:
    header, frame = list(source.frame.columns), source.frame
    if any(not isinstance(name, str) or not name.strip() for name in header):
        raise UserError(f"{source.path}, line 1: a column of the header has no name: {header}")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{source.path}, line 1: the header names {twice[0]!r} more than once")
    if frame.empty:
        raise UserError(f"{source.path}: there is a header but no rows")
    short = frame[header[-1]].isna().to_numpy()
    if short.any():
        row = int(short.argmax())
        seen = int(frame.iloc[row].notna().sum())
        raise UserError(f"{source.place(row)} has {seen} fields where the header has {len(header)}")


def _line_of_record(data: bytes, separator: str, quoted: bool, record: int) -> int:
    """The line, counted from 1, where record number `record` (0 = header) starts."""
    for number, line in enumerate(_record_lines(data, separator, quoted)):
        if number == record:
            return line
    raise IndexError(record)


def _record_lines(data: bytes, separator: str, quoted: bool) -> Iterator[int]:
    text = data.decode("utf-8")
    if not quoted:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield number
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    start = 1
    for fields in reader:
        if fields:
            yield start
        start = reader.line_num + 1
