"""Reading delimited text, with errors that name file and line."""

import codecs
import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from recalign.domains.readers import opening
from recalign.domains.source import Source
from recalign.errors import UserError

# Of a table whose name does not tell its separator, the one that the header has most of; where it
# has none of them, a space.
SEPARATORS = (",", "\t", ";", "|")
_BLOCK = 1 << 20  # bytes


def read(path: Path, separator: str | None, quoted: bool) -> Source:
    """Reads a table of text with a header line.

    Args:
      path: one file, packed or not, UTF-8 with or without a byte order mark, or UTF-16.
      separator: the field separator; where the header has none, that of `SEPARATORS` that it has
        most of. None for that one.
      quoted: whether a field may stand in double quotes (and then hold separators and line ends).
        Without, a quote is a character like any other.

    Returns:
      A source whose columns are all str, "" where a field is empty. Blank lines are skipped.

    Raises:
      UserError: naming file and line where something is wrong with the text.
    """
    return parse(path, opening.read_content(path), separator, quoted)


def parse(
    path: Path | str,
    data: bytes,
    separator: str | None,
    quoted: bool,
    names: Sequence[str] | None = None,
) -> Source:
    """As `read`, of what a file holds.

    Args:
      path: for messages.
      data: the file's content, in UTF-8.
      separator: as for `read`.
      quoted: as for `read`.
      names: the columns of a table without a header line.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data or data.isspace():
        raise UserError(f"{path}: the file is empty")
    _check_encoding(path, data)
    if names is None:
        separator = _find_separator(data, separator)
    frame = _parse_plain(data, separator, quoted) if names is None else None
    if frame is None:
        data = _quote_whole(data, separator) if quoted else data.replace(b"\r\n", b"\n")
        frame = _parse_any(path, data, separator, quoted)
    above = 1 if names is None else 0  # records above the rows
    header = frame.iloc[0].to_list() if names is None else list(names)
    if len(header) != frame.shape[1]:
        raise UserError(f"{path}, line 1 has {frame.shape[1]} fields, not {len(header)}")
    # The parser fills a short row up with empty fields; only then need the fields be counted.
    if (frame.iloc[:, -1] == "").any():
        _refuse_short_rows(path, len(header), _records(data, separator, quoted))

    def place(row: int) -> str:
        line, _ = next(itertools.islice(_records(data, separator, quoted), row + above, None))
        return f"{path}, line {line}"

    rows = frame.iloc[above:].reset_index(drop=True).set_axis(header, axis=1)
    return Source.of(path, rows, place)


def _parse_any(path: Path | str, data: bytes, separator: str, quoted: bool) -> pd.DataFrame:
    """All records of a table, "" where a field is empty or, at the end of a row, is not there."""
    # A lone carriage return is part of a field, not a line end: titles of scraped data hold some.
    lines = {} if quoted else {"lineterminator": "\n"}
    try:
        return pd.read_csv(
            io.BytesIO(data),
            sep=separator,
            dtype="str",
            keep_default_na=False,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            skipinitialspace=quoted,
            header=None,
            engine="c",
            **lines,
        )
    except pd.errors.EmptyDataError as error:  # a byte order mark or two
        raise UserError(f"{path}: the file is empty") from error
    except pd.errors.ParserError as error:
        raise UserError(f"{path}: {_explain(str(error))}") from error


def _parse_plain(data: bytes, separator: str, quoted: bool) -> pd.DataFrame | None:
    """As `_parse_any`, by Arrow in a fraction of its time and memory; None where they may differ.

    They agree on several columns where no line is blank, no field begins with a space, lines end by
    a line feed alone, quotes are the first and the last byte of a field, and all rows have as many
    fields.
    """
    mark = separator.encode()
    blanks = [blank for blank in (b" ", b"\t") if blank != mark]
    odd = [b"\r", b"\0", b"\n\n", *(b"\n" + blank for blank in blanks)]
    odd += [mark + blank for blank in blanks if quoted]
    if mark == b" " or data[:1].isspace() or any(text in data for text in odd):
        return None
    if quoted and not _quotes_whole_fields(data, mark):
        return None
    _, width = next(_records(io.BytesIO(data).readline(), separator, quoted), (0, 0))
    if width < 2:
        return None
    names = [str(number) for number in range(width)]
    quotes = {"quote_char": '"' if quoted else False, "newlines_in_values": quoted}
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            pyarrow.csv.ReadOptions(column_names=names),
            pyarrow.csv.ParseOptions(delimiter=separator, **quotes),
            pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string())),
        )
    except pa.ArrowInvalid:  # rows of other widths, of which pandas tells
        return None
    return table.to_pandas(types_mapper=lambda kind: pd.StringDtype(na_value=np.nan))


def _quotes_whole_fields(data: bytes, mark: bytes) -> bool:
    """Whether quotes open and close in turn, each at an end of its field."""
    content = np.frombuffer(data, np.uint8)
    ends = [ord(mark), ord("\n")]
    count = 0
    for start in range(0, len(content), _BLOCK):
        quotes = start + np.flatnonzero(content[start : start + _BLOCK] == ord('"'))
        opened, closed = quotes[count % 2 :: 2], quotes[1 - count % 2 :: 2]
        before, after = opened[opened > 0] - 1, closed[closed < len(content) - 1] + 1
        if not all(np.isin(content[beside], ends).all() for beside in (before, after)):
            return False
        count += len(quotes)
    return count % 2 == 0


def _find_separator(data: bytes, preferred: str | None) -> str:
    header = io.BytesIO(data.lstrip()).readline().decode()
    if preferred and preferred in header:
        return preferred
    most = max(SEPARATORS, key=header.count)
    return most if most in header or " " not in header.strip() else " "


def _check_encoding(path: Path | str, data: bytes) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), _BLOCK):  # a text takes as much memory as its bytes
        block = data[start : start + _BLOCK]
        try:
            decoder.decode(block, final=start + _BLOCK >= len(data))
        except UnicodeDecodeError as error:
            if b"\0" in data:
                raise UserError(f"{path}: not a file of text") from error
            wrong = start + len(block) - len(error.object) + error.start
            line = data.count(b"\n", 0, wrong) + 1
            raise UserError(
                f"{path}, line {line}: byte 0x{data[wrong]:02x} is not UTF-8; convert the file "
                f"from the encoding that it was written in, e.g. iconv -f WINDOWS-1252 -t UTF-8 "
                f"{path}"
            ) from error


def _quote_whole(data: bytes, separator: str) -> bytes:
    """Puts in proper quotes what begins with a quote and is not in such.

    That is `"Weird" Al`, whose quotes are its own, where a parser would drop them, and quotes that
    are escaped by a backslash, as Spark and MySQL write them. A quote that is never closed is its
    own too where tabs separate, since tables of tabs mostly know no quotes; else it is for the
    parser to refuse.
    """
    mark = re.escape(separator.encode())
    end = rb" *(?:[%b\r\n]|\Z)" % mark
    never_closed = b"" if separator == "\t" else rb"|\Z"
    field = re.compile(
        rb"""(?<![^%b\r\n])[ ]*(?:
            "[^"]*(?:""[^"]*)*(?:"(?=%b)%b)
          | "(?P<escaped>[^"\\]*(?:\\.[^"\\]*)+)"(?=%b)
          | (?P<own>"[^%b\r\n]*)
        )"""
        % (mark, end.replace(b" ", b"[ ]"), never_closed, end.replace(b" ", b"[ ]"), mark),
        re.VERBOSE | re.DOTALL,
    )

    def quote(match: re.Match[bytes]) -> bytes:
        if match["escaped"] is not None:
            text = re.sub(rb"\\(.)", rb"\1", match["escaped"], flags=re.DOTALL)
        else:
            text = match["own"]
        return match[0] if text is None else b'"%b"' % text.replace(b'"', b'""')

    if all(match["own"] is match["escaped"] is None for match in field.finditer(data)):
        return data
    return field.sub(quote, data)


def _explain(message: str) -> str:
    match = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message)
    if match:
        expected, line, seen = match.groups()
        return f"line {line} has {seen} fields where the header has {expected}"
    if "EOF inside string" in message:
        row = re.search(r"row (\d+)", message)
        return f"a double quote is opened and never closed{' near row ' + row[1] if row else ''}"
    return message


def _refuse_short_rows(path: Path | str, width: int, records: Iterator[tuple[int, int]]) -> None:
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
    before = csv.field_size_limit(len(data))  # of the whole process
    try:
        lines = io.StringIO(text, newline="")
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        start = 1
        for fields in reader:
            if len(fields) > 1 or "".join(fields).strip():
                yield start, len(fields)
            start = reader.line_num + 1
    finally:
        csv.field_size_limit(before)
