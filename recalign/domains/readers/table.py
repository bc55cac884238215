"""Any table with named columns: CSV and the like, Parquet and the like, or JSON lines.

What a file begins with decides how it is read, so that its name may say nothing; only the separator
of text is the one that the name tells, where it stands in the header.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import feather, orc, parquet

from recalign.domains import catalogue
from recalign.domains.raw import RawDomain, read_interactions
from recalign.domains.readers import delimited, jsonlines, opening
from recalign.domains.source import ShardedSource, Source, concatenate, convert_arrow
from recalign.domains.values import mend
from recalign.errors import UserError, quote

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_JSON = (".jsonl", ".ndjson", ".json")
# By what the file begins with: its format's name and reader.
_COLUMNAR: Mapping[bytes, tuple[str, Callable[[pa.BufferReader], pa.Table]]] = {
    b"PAR1": ("Parquet", lambda file: parquet.ParquetFile(file).read()),
    b"ARROW1": ("Arrow", feather.read_table),
    b"\xff\xff\xff\xff": ("Arrow", lambda file: pa.ipc.open_stream(file).read_all()),
    b"ORC": ("ORC", orc.read_table),
}
_MARKS = {
    ".parquet": b"PAR1",
    ".pq": b"PAR1",
    ".feather": b"ARROW1",
    ".arrow": b"ARROW1",
    ".orc": b"ORC",
}
SUFFIXES = (*_SEPARATORS, *_JSON, *_MARKS)


def read(
    interactions: Path, items: Path | None = None, columns: Mapping[str, str | None] | None = None
) -> RawDomain:
    """Reads a table of interactions and, if there is one, a table of items.

    Args:
      interactions: one row an event; perhaps in parts (`opening.find_parts`).
      items: one row an item, likewise.
      columns: {role: column} for the roles of `source.CANDIDATES`, and "catalogue_item" for the
        item column of `items`. A role that is absent or None takes the first candidate found.

    Raises:
      UserError: naming file, line or row, and field of what is wrong.
    """
    domain = RawDomain()
    read_interactions(_read(interactions), columns or {}, domain)
    if items is not None:  # by now the other table is out of memory
        catalogue.read_items(_read(items), columns or {}, domain)
    return domain


def read_items(path: Path) -> RawDomain:
    """Reads a table of items alone; arguments, formats and errors as for `read`."""
    domain = RawDomain(columns={"interactions": {"item": "item_id"}})
    catalogue.read_items(_read(path), {}, domain)
    return domain


def shard(
    interactions: Path, items: Path | None, columns: Mapping[str, str | None]
) -> ShardedSource:
    """The same tables, with the interactions to be read part by part; arguments as for `read`."""

    def set_items(domain: RawDomain) -> None:
        catalogue.read_items(_read(items), columns, domain)

    parts = opening.find_parts(interactions, SUFFIXES)
    read_part = functools.partial(_read_part, root=interactions)
    return ShardedSource(interactions, parts, read_part, columns, items and set_items)


def _read(path: Path) -> Source:
    parts = opening.find_parts(path, SUFFIXES)
    return concatenate(path, [_read_part(part, path) for part in parts])


def _read_part(part: Path, root: Path) -> Source:
    return _add_partition(_read_file(part), part, root)


def _add_partition(source: Source, part: Path, root: Path) -> Source:
    """With the columns that stand in the names of folders, as Hive and Spark write them."""
    folders = [folder for folder in part.parts[:-1] if folder not in root.parts]
    columns = dict(folder.split("=", 1) for folder in folders if "=" in folder)
    if foreign := next((f for f in folders if "=" in f and mend(f) != f), None):
        raise UserError(f"{part}: {quote(foreign)} tells of a column, but is not UTF-8: rename it")
    texts = {
        name: "" if text == "__HIVE_DEFAULT_PARTITION__" else unquote(text)
        for name, text in columns.items()
        if name not in source.frame
    }
    return dataclasses.replace(source, frame=source.frame.assign(**texts)) if texts else source


def _read_file(path: Path) -> Source:
    kinds = [suffix.lower() for suffix in path.suffixes[-2:]]
    data = opening.read_content(path)
    wanted = next((mark for name, mark in _MARKS.items() if name in kinds), None)
    mark = next((mark for mark in _COLUMNAR if data.startswith(mark)), wanted)
    if mark:
        return _read_columnar(path, data, *_COLUMNAR[mark])
    if data.lstrip()[:1] in (b"{", b"["):
        return jsonlines.read_table(path)
    separator = next((mark for name, mark in _SEPARATORS.items() if name in kinds), None)
    source = delimited.parse(path, data, separator, quoted=True)
    if len(source.frame.columns) < 2 and not {*kinds} & {*SUFFIXES}:
        raise UserError(
            f"{path}: neither its name nor its first line tells the format; known are tables of "
            f"text with a header (.csv, .tsv, …), .parquet, .feather, .orc, and .jsonl"
        )
    return source


def _read_columnar(
    path: Path, data: bytes, format_: str, read_table: Callable[[pa.BufferReader], pa.Table]
) -> Source:
    try:
        frame = convert_arrow(read_table(pa.BufferReader(data)))
    except (OSError, ValueError, NotImplementedError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable {format_} file: {str(error)[:300]}") from error
    return Source.of(path, frame, lambda row: f"{path}, row {row + 1}")
