"""Reading delimited text, with errors that name file and line."""

import codecs
import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from recalign.domains.readers import opening
from recalign.domains.source import Source
from recalign.errors import UserError, quote

# Of a table whose name does not tell its separator, the one that the header has most of; where it
# has none of them, a space.
SEPARATORS = (",", "\t", ";", "|")
_BLOCK = 1 << 20  # bytes
_HEAD = 1 << 16  # bytes that mostly hold the header and a row


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
        # The first line of a spreadsheet's own; a blank one leaves lines their numbers.
        told = re.match(rb'"?sep=(.)"?\r?(?=\n)', data)
        data = data[told.end() :] if told else data
        separator = told[1].decode() if told else _find_separator(data, separator)
    header_line = _first_line(data).decode().strip() if names is None else None
    nameless = None
    frame = _parse_plain(data, separator, quoted) if names is None else None
    if frame is None:
        data = _quote_whole(data, separator) if quoted else _end_lines(data)
        nameless = _has_nameless(data, separator, quoted) if names is None else None
        try:
            frame = _parse_any(data, separator, quoted, nameless)
        except pd.errors.EmptyDataError as error:  # a byte order mark or two
            raise UserError(f"{path}: the file is empty") from error
        except pd.errors.ParserError as error:
            raise UserError(f"{path}: {_explain(str(error), header_line)}") from error
    above = 1 if names is None else 0  # records above the rows

    def place(row: int) -> str:
        line, _ = next(itertools.islice(_records(data, separator, quoted), row + above, None))
        return f"{path}, line {line}"

    header = frame.iloc[0].fillna("").to_list() if names is None else list(names)
    if len(header) != frame.shape[1]:
        raise UserError(f"{path}, line 1 has {frame.shape[1]} fields, not {len(header)}")
    if nameless and (frame.iloc[1:, -1] != "").any():
        header = ["", *header[:-1]]
        if frame.iloc[1:, 0].to_list() != [str(n) for n in range(1, len(frame))]:
            (line, fields), *_ = itertools.islice(_records(data, separator, quoted), 1, 2)
            raise UserError(f"{path}, {_misfit(line, fields, fields - 1, header_line)}")
    if quoted and data.count(b"\n") > len(frame):
        _check_swallowed(frame, separator, lambda record: place(record - above))
    # The parser fills a short row up with empty fields; only then need the fields be counted.
    if (frame.iloc[:, -1] == "").any():
        rows = itertools.islice(_records(data, separator, quoted), above, None)
        width = max((n for n, name in enumerate(header, start=1) if name.strip()), default=0)
        for line, fields in rows:
            if fields < width:
                raise UserError(f"{path}, {_misfit(line, fields, width, header_line)}")

    rows = frame.iloc[above:].reset_index(drop=True).set_axis(header, axis=1)
    return Source.of(path, rows, place)


def _parse_any(data: bytes, separator: str, quoted: bool, width: int | None = None) -> pd.DataFrame:
    """All records, of as many fields as the first or `width`; "" or nan where one is not there."""
    # A lone carriage return is part of a field, not a line end: titles of scraped data hold some.
    lines = {} if quoted else {"lineterminator": "\n"}
    return pd.read_csv(
        io.BytesIO(data),
        sep=separator,
        dtype="str",
        keep_default_na=False,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        skipinitialspace=quoted,
        header=None,
        names=range(width) if width else None,
        engine="c",
        **lines,
    )


def _parse_plain(data: bytes, separator: str, quoted: bool) -> pd.DataFrame | None:
    """As `_parse_any`, by Arrow in a fraction of its time and memory; None where they may differ.

    They agree on several columns where no line is blank, no field begins with a space, lines end by
    a line feed alone, quotes are the first and the last byte of a field, and all rows have as many
    fields.
    """
    mark = separator.encode()
    # To look for two bytes takes twenty times as long as for one.
    blanks = [blank for blank in (b" ", b"\t") if blank != mark and blank in data]
    odd = [b"\r", b"\0", b"\n\n", *(b"\n" + blank for blank in blanks)]
    odd += [mark + blank for blank in blanks if quoted]
    if mark == b" " or data[:1].isspace() or any(text in data for text in odd):
        return None
    if quoted and not _quotes_whole_fields(data, mark):
        return None
    _, width = next(_records(_first_line(data), separator, quoted), (0, 0))
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
    # A quote that is never closed may take the rows that follow into its field: `_quote_whole`.
    if quoted and separator == "\t" and any(map(_has_lines, table.columns)):
        return None
    return table.to_pandas(types_mapper=lambda kind: pd.StringDtype(na_value=np.nan))


def _has_lines(column: pa.ChunkedArray) -> bool:
    return pc.any(pc.match_substring(column, "\n")).as_py()


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


def _first_line(data: bytes) -> bytes:
    """The first that is not blank."""
    return io.BytesIO(data.lstrip()).readline()


def _find_separator(data: bytes, preferred: str | None) -> str:
    header = _first_line(data).decode()
    if preferred and preferred in header:
        return preferred
    most = max(SEPARATORS, key=header.count)
    return most if most in header or " " not in header.strip() else " "


def _has_nameless(data: bytes, separator: str, quoted: bool) -> int | None:
    """How many fields the first row has, if that is one more than the header; else None.

    It is empty at the end, where a separator ends each row, or the row's number, as R writes it.
    """
    size, fields = 0, []
    while len(fields) < 3 and size < len(data):  # the first row is whole where another one follows
        size = max(2 * size, _HEAD)
        head = data[:size].rpartition(b"\n")[0] if size < len(data) else data
        fields = [n for _, n in itertools.islice(_records(head, separator, quoted), 3)]
    return fields[1] if len(fields) > 1 and fields[1] == fields[0] + 1 else None


def _end_lines(data: bytes) -> bytes:
    """With line feeds alone at the ends of lines, as of Windows, or of an old Mac."""
    return data.replace(b"\r\n", b"\n") if b"\n" in data else data.replace(b"\r", b"\n")


def _check_encoding(path: Path | str, data: bytes) -> None:
    if b"\0" in io.BytesIO(data).readline():
        raise UserError(f"{path}: not a file of text")
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
    parser to refuse. So is one there that is closed in a later line, where all lines in between
    are whole rows.
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

    marks = _first_line(data).count(b"\t")

    def requote(match: re.Match[bytes]) -> bytes:
        text, rest = match["own"], b""
        if match["escaped"] is not None:
            text = re.sub(rb"\\(.)", rb"\1", match["escaped"], flags=re.DOTALL)
        elif separator == "\t" and text is None and _spans_rows(match, marks):
            text = re.split(rb"[\t\r\n]", match[0].lstrip(b" "), maxsplit=1)[0]
            rest = match[0].lstrip(b" ")[len(text) :]
        return match[0] if text is None else b'"%b"%b' % (text.replace(b'"', b'""'), rest)

    # What is left of a field that spanned rows has fields of its own.
    while (mended := field.sub(requote, data)) != data:
        data = mended
    return data


def _spans_rows(field: re.Match[bytes], marks: int) -> bool:
    """Whether a field has several lines, each of which has as many tabs as a row."""
    if b"\n" not in field[0]:
        return False
    start = field.string.rfind(b"\n", 0, field.start()) + 1
    end = field.string.find(b"\n", field.end())
    lines = field.string[start : end if end >= 0 else None].split(b"\n")
    return all(line.count(b"\t") == marks for line in lines)


def _check_swallowed(frame: pd.DataFrame, separator: str, place: Callable[[int], str]) -> None:
    """Refuses a field that a quote opens which is none, since it holds the rows up to the next one.

    Such a field has lines that are rows: with what stands beside it, each has as many fields as the
    record, without a space before any, and begins as the record does. Lines of a description are
    taken for rows only where all of that is so.

    Args:
      frame: all records.
      separator: what stands between fields.
      place: tells where a record is.

    Raises:
      UserError: naming the line where such a field begins.
    """
    width = frame.shape[1]
    for column in range(width if width > 1 else 0):
        for record in np.flatnonzero(frame.iloc[:, column].str.contains("\n", regex=False)):
            lines = frame.iat[record, column].split("\n")
            begin = frame.iat[record, 0] if column else lines[0].split(separator)[0]
            if _are_rows(lines, separator, column, width, begin):
                raise UserError(
                    f"{place(record)}: a double quote opens a field that takes in the rows after "
                    f"it, {quote(lines[1])} the first, until another one closes it: remove the "
                    f"quote, or double it and put the field in quotes of its own"
                )


def _are_rows(lines: Sequence[str], separator: str, column: int, width: int, begin: str) -> bool:
    """Whether the lines of a field are rows, the first and last of them beside what is around it.

    Args:
      lines: at least two.
      separator: what stands between fields.
      column: that of the field.
      width: how many fields a row has.
      begin: the first field of the record.
    """
    marks = [width - 1 - column, *[width - 1] * (len(lines) - 2), column]
    return (
        # Two lines of two fields, or without a digit, may well be a description.
        (len(lines) > 2 or (width > 2 and bool(re.search(r"\d", begin))))
        and [line.count(separator) for line in lines] == marks
        and not any(f"{separator} " in line for line in lines)
        and all(_are_alike(begin, line.split(separator)[0]) for line in lines[1:])
    )


def _are_alike(one: str, other: str) -> bool:
    """Whether both are numbers, or neither is and they have the same marks between words."""
    marks, others = (re.sub(r"\w", "", text.strip()) for text in (one, other))
    return bool(other.strip()) and marks == others and one.isdecimal() == other.isdecimal()


def _misfit(line: int | str, fields: int | str, width: int | str, header: str | None) -> str:
    if header is None:
        return f"line {line} has {fields} fields where there should be {width}"
    return f"line {line} has {fields} fields where the header has {width}: {quote(header)}"


def _explain(message: str, header: str | None) -> str:
    match = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message)
    if match:
        expected, line, seen = match.groups()
        return _misfit(line, seen, expected, header)
    if "EOF inside string" in message:
        row = re.search(r"row (\d+)", message)
        return f"a double quote is opened and never closed{' near row ' + row[1] if row else ''}"
    return message


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
