"""What every reader returns: interactions and items in the source's own terms, checked."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recalign.errors import UserError, shown

# Column names that are understood without being told, most specific first.
CANDIDATES: Mapping[str, Sequence[str]] = {
    "user": ("user_id", "user", "userId", "reviewerID"),
    "item": ("item_id", "item", "itemId", "movieId", "parent_asin", "asin"),
    "timestamp": ("timestamp", "time", "unixReviewTime", "date"),
    "rating": ("rating", "overall", "stars"),
    "title": ("title", "item_name", "movie_title", "product_name", "name"),
    "brand": ("brand", "store", "manufacturer"),
    "categories": ("categories", "category", "genres", "genre", "class"),
}
INTERACTION_ROLES = ("user", "item", "timestamp", "rating")
ITEM_ROLES = ("item", "title", "brand", "categories")
REQUIRED = ("user", "item")
_BLOCK = 1 << 18  # rows


@dataclasses.dataclass
class RawDomain:
    """A source's interactions and items before ordering and indexing.

    Attributes:
      interactions: one row an event, in file order; columns `user`, `item` (str, non-empty) and,
        where the source has them, `timestamp` (Int64 or Float64, <NA> where missing) and `rating`
        (float32, nan where missing).
      items: one row an item, `key` unique; columns `key`, `title`, `brand`, `categories` (str),
        then further columns of the source. None where the source has no item table.
      counts: how often each clean-up was applied, for `statistics.json`.
      columns: which source column plays which role, and which are kept or ignored.
      warnings: sentences for the user.
    """

    interactions: pd.DataFrame
    items: pd.DataFrame | None
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    columns: dict[str, dict[str, str] | list[str]] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Source:
    """One table of a source with what is needed to name a place in it.

    Attributes:
      path: the file.
      frame: its rows; text columns hold str with "" for missing, others their Parquet type.
      line: maps a row number to its line in the file, counted from 1; None for a binary file.
    """

    path: Path
    frame: pd.DataFrame
    line: Callable[[int], int] | None = None

    def place(self, row: int) -> str:
        """Where a row is, for an error message."""
        return (
            f"{self.path}, row {row + 1}"
            if self.line is None
            else f"{self.path}, line {self.line(row)}"
        )


def resolve(
    source: Source, roles: Sequence[str], chosen: Mapping[str, str | None]
) -> dict[str, str]:
    """Finds the column of each role: the one chosen, or else the first candidate that is there.

    Returns:
      {role: column}, without the optional roles that have no column.

    Raises:
      UserError: a chosen column or a required role's column is not in the file.
    """
    there = list(source.frame.columns)
    found = {}
    for role in roles:
        name = chosen.get(role)
        wanted = [name] if name else CANDIDATES[role]
        column = next((c for c in wanted if c in there), None)
        if column:
            found[role] = column
        elif name or role in REQUIRED:
            raise UserError(
                f"{source.path}: no column {' or '.join(map(repr, wanted))} for the {role}; "
                f"columns there: {', '.join(map(shown, there[:30]))}{', …' * (len(there) > 30)}"
            )
    _refuse_double_use(source.path, found)
    return found


def _refuse_double_use(path: Path, found: Mapping[str, str]) -> None:
    roles: dict[str, str] = {}
    for role, column in found.items():
        if column in roles:
            raise UserError(
                f"{path}: column {shown(column)} cannot be both {roles[column]} and {role}"
            )
        roles[column] = role


def ids(source: Source, column: str) -> pd.Series:
    """A column of ids as str, without surrounding white space.

    Whole numbers are written without a decimal point even where missing values made the column
    floating, so that the ids of two tables agree.

    Raises:
      UserError: an id is empty.
    """
    values = source.frame[column]
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    values = values.astype("string").fillna("").str.strip()
    empty = np.flatnonzero((values == "").to_numpy())
    if len(empty):
        raise UserError(f"{source.place(empty[0])}: {column!r} is empty; every row needs an id")
    return values.reset_index(drop=True)


def text(source: Source, column: str) -> pd.Series:
    """A column as str, "" where missing; the elements of a list column are joined by ", "."""
    values = source.frame[column]
    if values.dtype == object:
        values = values.map(
            lambda v: ", ".join(map(str, v)) if isinstance(v, list | tuple | np.ndarray) else v
        )
    return values.astype("string").fillna("").astype(object).reset_index(drop=True)


def plain(source: Source, column: str) -> pd.Series:
    """A column that plays no role: numbers stay numbers, all else becomes text."""
    values = source.frame[column]
    return (
        values.reset_index(drop=True)
        if pd.api.types.is_numeric_dtype(values)
        else text(source, column)
    )


def numbers(source: Source, column: str) -> pd.Series:
    """A column of numbers as Int64 (where all are whole) or Float64, <NA> where missing.

    Raises:
      UserError: a value that is neither a finite number nor empty.
    """
    values = source.frame[column].reset_index(drop=True)
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        values = values.astype("string").str.strip()
        values = values.mask(values == "")
    given = values.dropna()
    parsed = _parsed(given) if given.dtype == "string" else given
    bad = ~np.isfinite(parsed.to_numpy(np.float64, na_value=np.nan))
    if bad.any():
        row = given.index[int(np.argmax(bad))]
        raise UserError(f"{source.place(row)}: {column!r} is {shown(given[row])}, not a number")
    whole = pd.api.types.is_integer_dtype(parsed) and parsed.dtype != np.uint64
    return parsed.astype("Int64" if whole else "Float64").reindex(values.index)


def _parsed(texts: pd.Series) -> pd.Series:
    """Texts as int64 (where all are whole) or float64, nan where one is no number."""
    # By the block: as Python objects they take ten times the memory of the numbers.
    blocks = [texts.iloc[start : start + _BLOCK] for start in range(0, len(texts), _BLOCK)]
    numbers = [pd.to_numeric(block.astype(object), errors="coerce") for block in blocks]
    whole = all(part.dtype == np.int64 for part in numbers)
    values = [part.to_numpy(np.int64 if whole else np.float64) for part in numbers]
    return pd.Series(np.concatenate([*values, np.zeros(0, np.int64)]), texts.index)


def times(source: Source, column: str) -> pd.Series:
    """A column of times: numbers as they are, ISO 8601 dates as seconds since 1970 (UTC).

    Raises:
      UserError: a value that is neither, or numbers and dates mixed.
    """
    values = source.frame[column].reset_index(drop=True)
    if pd.api.types.is_datetime64_any_dtype(values):
        return _seconds(pd.to_datetime(values, utc=True))
    if pd.api.types.is_numeric_dtype(values):
        return numbers(source, column)
    values = values.astype("string").str.strip()
    values = values.mask(values == "")
    given = values.dropna()
    if (
        given.empty
        or not np.isnan(pd.to_numeric(given.iloc[:1].astype(object), errors="coerce")).all()
    ):
        return numbers(source, column)
    parsed = pd.to_datetime(given.astype(object), utc=True, format="ISO8601", errors="coerce")
    if parsed.isna().any():
        row = parsed.index[int(np.argmax(parsed.isna().to_numpy()))]
        raise UserError(
            f"{source.place(row)}: {column!r} is {shown(values[row])}, not an ISO 8601 date "
            "(such as 2014-07-23 or 2014-07-23T10:00:00Z) like the values before it"
        )
    return _seconds(parsed).reindex(values.index)


def _seconds(moments: pd.Series) -> pd.Series:
    given = moments.dropna().dt.as_unit("us").astype("int64").astype("Int64")
    # Whole seconds stay integers: ties are then exact.
    whole = (given % 1_000_000 == 0).all()
    seconds = given // 1_000_000 if whole else (given / 1e6).astype("Float64")
    return seconds.reindex(moments.index)


def read_interactions(source: Source, chosen: Mapping[str, str | None], domain: RawDomain) -> None:
    """Sets a domain's interactions, in file order, with their counts and columns.

    Raises:
      UserError: a column is missing, an id is empty, or a number or date cannot be read.
    """
    columns = resolve(source, INTERACTION_ROLES, chosen)
    frame = pd.DataFrame(
        {"user": ids(source, columns["user"]), "item": ids(source, columns["item"])}
    )
    if "timestamp" in columns:
        frame["timestamp"] = times(source, columns["timestamp"])
        domain.counts["timestamps_missing"] = int(frame["timestamp"].isna().sum())
    if "rating" in columns:
        rating = numbers(source, columns["rating"])
        frame["rating"] = _ratings(source, columns["rating"], rating)
        domain.counts["ratings_missing"] = int(rating.isna().sum())
    domain.counts["duplicate_interactions"] = int(
        frame.duplicated([c for c in ("user", "item", "timestamp") if c in frame]).sum()
    )
    domain.interactions = frame
    domain.columns["interactions"] = columns
    domain.columns["interactions_ignored"] = unused(source, columns)
    if "timestamp" not in columns:
        domain.warnings.append(
            f"{source.path}: no timestamp column, so each user's events keep file order"
        )


def _ratings(source: Source, column: str, rating: pd.Series) -> np.ndarray:
    """float32[n], nan where missing."""
    with np.errstate(over="ignore"):
        values = rating.to_numpy(np.float64, na_value=np.nan).astype(np.float32)
    infinite = np.isinf(values)
    if infinite.any():
        row = int(infinite.argmax())
        raise UserError(f"{source.place(row)}: {column!r} is {rating[row]}, too large for a rating")
    return values


def unused(source: Source, columns: Mapping[str, str]) -> list[str]:
    """The columns of a table that play no role."""
    return [name for name in source.frame.columns if name not in columns.values()]
