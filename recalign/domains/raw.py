"""What every reader returns: interactions and items in the source's own terms, checked."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from recalign.domains import values
from recalign.domains.source import REQUIRED, Source, list_unused, resolve
from recalign.errors import UserError

INTERACTION_ROLES = ("user", "item", "timestamp", "rating")
# What times since 1970 count, where they are so large that they can be of these days.
EPOCH_UNITS = {"seconds": 1e8, "milliseconds": 1e11, "microseconds": 1e14, "nanoseconds": 1e17}


@dataclasses.dataclass
class RawDomain:
    """A source's interactions and items before ordering and indexing.

    Attributes:
      interactions: one row an event, in file order; columns `user`, `item` (non-empty str, or a
        categorical of such) and, where the source has them, `timestamp` (Int64 or Float64, <NA>
        where missing) and `rating` (float32, nan where missing).
      items: one row an item, `key` unique; columns `key`, `title`, `brand`, `categories` (str),
        then further columns of the source. None where the source has no item table.
      counts: how often each clean-up was applied, for `statistics.json`.
      columns: which source column plays which role, and which are kept or ignored.
      warnings: sentences for the user.
    """

    interactions: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    items: pd.DataFrame | None = None
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    columns: dict[str, dict[str, str] | list[str]] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)


def read_interactions(source: Source, chosen: Mapping[str, str | None], domain: RawDomain) -> None:
    """Sets a domain's interactions, in file order, with their counts and columns.

    Raises:
      UserError: a column is missing, an id is empty, or a number or date cannot be read.
    """
    columns = resolve(source, INTERACTION_ROLES, chosen)
    frame = read_columns(source, columns)
    missing = {role: int(frame[role].isna().sum()) for role in frame.columns}
    domain.interactions = frame
    note_columns(domain, source.path, columns, list_unused(source, columns), missing)
    domain.counts["duplicate_interactions_kept"] = int(find_duplicates(frame).sum())


def read_columns(
    source: Source,
    columns: Mapping[str, str],
    read_times: Callable[[Source, str], pd.Series] = values.read_times,
) -> pd.DataFrame:
    """The interactions of a table, as in `RawDomain`; `values.read_moments` may read the times.

    Raises:
      UserError: an id is empty, or a number or date cannot be read.
    """
    with ThreadPoolExecutor() as pool:  # Arrow compares texts without Python's lock
        ids = pool.map(lambda role: values.read_repeated_ids(source, columns[role]), REQUIRED)
        frame = pd.DataFrame(dict(zip(REQUIRED, ids, strict=True)))
    if "timestamp" in columns:
        frame["timestamp"] = read_times(source, columns["timestamp"])
        refuse_mixed_units(source.path, find_epoch_units(frame["timestamp"]))
    if "rating" in columns:
        rating = values.read_numbers(source, columns["rating"])
        frame["rating"] = _ratings(source, columns["rating"], rating)
    return frame


def find_epoch_units(times: pd.Series) -> set[str]:
    """Those of `EPOCH_UNITS` that times in numbers seem to count; small ones tell nothing."""
    if values.holds_dates(times):
        return set()
    sizes = times.dropna().to_numpy(np.float64)
    places = np.searchsorted([*EPOCH_UNITS.values()], sizes, side="right")
    return {[*EPOCH_UNITS][place - 1] for place in np.unique(places) if place}


def ticks_per_second(times: np.ndarray) -> float:
    """How many of their unit, which no domain notes, times in numbers count in a second.

    That of `EPOCH_UNITS` whose size the largest have. Small ones, such as days since a shop opened,
    tell nothing: they are taken for seconds.
    """
    units = find_epoch_units(pd.Series(times))
    second = EPOCH_UNITS["seconds"]
    return max([second, *(EPOCH_UNITS[unit] for unit in units)]) / second


def refuse_mixed_units(path: Path | str, units: Collection[str]) -> None:
    """Raises a UserError unless all times count one unit: others would be in no order at all."""
    if len(units) > 1:
        names = " and others ".join(unit for unit in EPOCH_UNITS if unit in units)
        raise UserError(
            f"{path}: some timestamps are as large as {names} since 1970 are; write all in one unit"
        )


def note_columns(
    domain: RawDomain,
    path: Path | str,
    columns: dict[str, str],
    ignored: list[str],
    missing: Mapping[str, int],
) -> None:
    """Notes which columns a domain's interactions have, and in how many rows one is missing."""
    for role in ("timestamp", "rating"):
        if role in columns:
            domain.counts[f"{role}s_missing"] = missing[role]
    domain.columns["interactions"] = columns
    domain.columns["interactions_ignored"] = ignored
    if "timestamp" not in columns:
        domain.warnings.append(
            f"{path}: no timestamp column, so each user's events keep file order"
        )


def drop_duplicates(domain: RawDomain) -> None:
    """Leaves the interactions out that repeat an earlier one of the same user, item and time."""
    repeated = find_duplicates(domain.interactions)
    domain.interactions = domain.interactions[~repeated].reset_index(drop=True)
    note_dropped(domain, int(repeated.sum()))


def note_dropped(domain: RawDomain, repeated: int) -> None:
    """Notes that interactions which repeat an earlier one were left out."""
    del domain.counts["duplicate_interactions_kept"]
    domain.counts["duplicate_interactions_dropped"] = repeated


def find_duplicates(interactions: pd.DataFrame) -> pd.Series:
    """Bool[n], the interactions that repeat an earlier one of the same user, item and time."""
    (users, _), (items, keys) = (number_ids(interactions[role]) for role in REQUIRED)
    pairs = users * np.int64(len(keys)) + items
    ordered = np.sort(pairs)
    # Few share their user and item, and of these alone the times need be looked at.
    shared = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    repeated = pd.Series(pairs, interactions.index).isin(shared)
    columns = [c for c in (*REQUIRED, "timestamp") if c in interactions]
    repeated[repeated] = interactions[repeated].duplicated(columns).to_numpy()
    return repeated


def number_ids(ids: pd.Series) -> tuple[np.ndarray, pd.Index]:
    """Each row's number, int[n], and the ids by number, of which some may be in no row."""
    if isinstance(ids.dtype, pd.CategoricalDtype):
        return ids.cat.codes.to_numpy(), ids.cat.categories
    return pd.factorize(ids)


def list_items(interactions: pd.DataFrame) -> pd.Index:
    """The distinct item ids of interactions, as str, in the order of their first."""
    return pd.Index(pd.unique(interactions["item"])).astype("str")


def _ratings(source: Source, column: str, rating: pd.Series) -> np.ndarray:
    """float32[n], nan where missing."""
    with np.errstate(over="ignore"):
        single = rating.to_numpy(np.float64, na_value=np.nan).astype(np.float32)
    infinite = np.isinf(single)
    if infinite.any():
        row = int(infinite.argmax())
        raise UserError(f"{source.place(row)}: {column!r} is {rating[row]}, too large for a rating")
    return single
