"""A table as a file has it, before anything is made of its values."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recalign.domains.cleaning import trim
from recalign.errors import UserError, quote

# Column names that are understood without being told, most specific first; "User ID" is one too.
CANDIDATES: Mapping[str, Sequence[str]] = {
    "user": ("user_id", "user", "userId", "reviewerID"),
    "item": ("item_id", "item", "itemId", "movieId", "parent_asin", "asin", "product_id"),
    "timestamp": ("timestamp", "time", "unixReviewTime", "date"),
    "rating": ("rating", "overall", "stars"),
    "title": ("title", "item_name", "movie_title", "product_name", "name"),
    "brand": ("brand", "store", "manufacturer"),
    "categories": ("categories", "category", "genres", "genre", "class"),
}
REQUIRED = ("user", "item")
# What pandas and Arrow call an index that has no name.
_INDEX = re.compile(r"|Unnamed: \d+|__index_level_\d+__")


# pandas' own choice for integers of which some are missing are floats, which lose digits.
_NULLABLE = {
    pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(), pa.uint8(): pd.UInt8Dtype(), pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(), pa.uint64(): pd.UInt64Dtype(), pa.bool_(): pd.BooleanDtype(),
}  # fmt: skip
EXACT = 53
"""Bits of a whole number that a float64 holds."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One table of a source, with what is needed to name a place in it.

    Attributes:
      path: the file, or what the user gave for several.
      frame: its rows, columns of distinct names; text columns hold str with "" for missing, others
        what their type gives.
      place: tells where a row is, for an error message.
      doubled: names that the file has more than once, and where; `frame` has one column of each.
      lacking: of several files, one that lacks a column that another has, by its name.
    """

    path: Path | str
    frame: pd.DataFrame
    place: Callable[[int], str]
    doubled: Mapping[str, Path | str] = dataclasses.field(default_factory=dict)
    lacking: Mapping[str, Path | str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        path: Path | str,
        frame: pd.DataFrame,
        place: Callable[[int], str],
        doubled: Mapping[str, Path | str] | None = None,
    ) -> "Source":
        """A table with the names as they stand in the file, and what else is known to be doubled.

        They are stripped, and a column without a name is left out: it is the index that pandas
        writes, or comes of a separator at the end of each line.
        """
        names = [trim(str(name)) for name in frame.columns]
        named = [name for name in names if not _INDEX.fullmatch(name)]
        columns = [names.index(name) for name in dict.fromkeys(named)]
        return cls(
            path,
            frame.iloc[:, columns].set_axis(list(dict.fromkeys(named)), axis=1),
            place,
            {name: path for name in named if named.count(name) > 1} | dict(doubled or {}),
        )


@dataclasses.dataclass(frozen=True)
class ShardedSource:
    """Interactions that are to be read part by part, and an item table that is read whole.

    Attributes:
      path: what the user gave.
      parts: the files of interactions, in order.
      read_part: reads one of them.
      chosen: the columns of roles, as for `resolve`.
      read_items: sets the item table of a `RawDomain` whose interactions are there; None where
        there is no table.
    """

    path: Path
    parts: Sequence[Path]
    read_part: Callable[[Path], Source]
    chosen: Mapping[str, str | None]
    read_items: Callable[[Any], None] | None


def convert_arrow(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as a frame; integers stay integers, and categories are their values."""
    table = pa.Table.from_arrays([*map(_simplify, table.columns)], names=table.column_names)
    # What pandas may have noted of an index is no concern of ours.
    return table.to_pandas(types_mapper=_NULLABLE.get, ignore_metadata=True)


def _simplify(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without what pandas has no type for, or another value."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type) and column.type.tz:  # which Python may not know
        return column.cast(pa.timestamp(column.type.unit, "UTC"))
    if isinstance(column.type, pa.UuidType):
        return pa.chunked_array([[v and str(v) for v in column.to_pylist()]], pa.string())
    return column


def concatenate(path: Path, sources: Sequence[Source]) -> Source:
    """The rows of several parts, one after the other; a column may lack in some of them."""
    if len(sources) == 1:
        return sources[0]
    starts = np.cumsum([0, *(len(source.frame) for source in sources)])

    def place(row: int) -> str:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        return sources[part].place(row - int(starts[part]))

    frame = stack([source.frame for source in sources])
    lacking = {
        name: source.path
        for source in sources
        if len(source.frame)
        for name in frame.columns.difference(source.frame.columns)
    }
    doubled = {name: where for source in sources[::-1] for name, where in source.doubled.items()}
    return Source(path, frame, place, doubled, lacking)


def stack(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of frames, one after the other; integers beside floats keep their digits.

    Where a column holds nothing it has no type of its own, and takes that of the others.
    """
    names = dict.fromkeys(name for part in frames for name in part.columns)
    typed = [{n for n in part.columns if not _holds_nothing(part[n])} for part in frames]
    untyped = names.keys() - set().union(*typed)
    frames = [
        part[[n for n in part.columns if n in own | untyped]]
        for part, own in zip(frames, typed, strict=True)
    ]
    frame = pd.concat(frames, ignore_index=True)[[*names]]
    large = {
        name
        for part in frames
        for name in part.columns
        if pd.api.types.is_integer_dtype(part[name])
        and pd.api.types.is_float_dtype(frame[name])
        and not part[name].dropna().between(-(2**EXACT), 2**EXACT).all()
    }
    if not large:
        return frame
    exact = [part.astype({n: object for n in part.columns if n in large}) for part in frames]
    return pd.concat(exact, ignore_index=True)[[*names]]


def _holds_nothing(column: pd.Series) -> bool:
    return column.dtype == object and bool(column.isna().all())


def resolve(
    source: Source, roles: Sequence[str], chosen: Mapping[str, str | None]
) -> dict[str, str]:
    """Finds the column of each role: the one chosen, or else the first candidate that is there.

    Returns:
      {role: column}, without the optional roles that have no column.

    Raises:
      UserError: a chosen column or a required role's column is not in the file, or is there twice;
        or the file has no rows.
    """
    there = list(source.frame.columns)
    found = {}
    for role in roles:
        name = chosen.get(role)
        columns = [c for c in [trim(name)] if c in there] if name else _candidates(role, there)
        if columns:
            found[role] = columns[0]
            _check_parts(source, role, columns)
        elif name or role in REQUIRED:
            wanted = [name] if name else CANDIDATES[role]
            raise UserError(
                f"{source.path}: no column {' or '.join(map(repr, wanted))} for the {role}; "
                f"{_list(there)}"
            )
        if where := source.doubled.get(found.get(role, "")):
            raise UserError(f"{where}: names {quote(found[role])} more than once")
    _refuse_double_use(source.path, found)
    if source.frame.empty:
        raise UserError(f"{source.path}: there is a header but no rows")
    return found


def _list(columns: Sequence[str]) -> str:
    if not columns:
        return "there is none at all"
    names = f"{', '.join(map(quote, columns[:30]))}{', …' * (len(columns) > 30)}"
    values = any(re.fullmatch(r"-?[\d.,:]+", name) for name in columns)
    header = "; numbers name no columns: has the file a header?" if values else ""
    return f"say which it is of {names}{header}"


def _candidates(role: str, there: Sequence[str]) -> list[str]:
    """The columns that may have a role: those named so to the letter, then "User ID", "USERID"."""

    def spell(name: str) -> str:
        return re.sub(r"[\W_]", "", name).casefold()

    exact = [name for name in CANDIDATES[role] if name in there]
    loose = [n for wanted in CANDIDATES[role] for n in there if spell(n) == spell(wanted)]
    return list(dict.fromkeys([*exact, *loose]))


def _check_parts(source: Source, role: str, columns: Sequence[str]) -> None:
    """Raises a UserError where parts have a role in different columns, or lack one that must be."""
    column, *others = columns
    if column not in source.lacking:
        return
    if other := next((name for name in others if name in source.lacking), None):
        raise UserError(
            f"{source.path}: the {role} is in the column {quote(column)} in one part, in "
            f"{quote(other)} in another ({source.lacking[column]}): name it alike in all"
        )
    if role in REQUIRED:
        raise UserError(
            f"{source.lacking[column]}: no column {quote(column)} for the {role}, which other "
            f"parts of {source.path} have; is it a part, and has it a header?"
        )


def _refuse_double_use(path: Path | str, found: Mapping[str, str]) -> None:
    roles: dict[str, str] = {}
    for role, column in found.items():
        if column in roles:
            raise UserError(
                f"{path}: column {quote(column)} cannot be both {roles[column]} and {role}"
            )
        roles[column] = role


def list_unused(source: Source, columns: Mapping[str, str]) -> list[str]:
    """The columns of a table that play no role."""
    return [name for name in source.frame.columns if name not in columns.values()]
