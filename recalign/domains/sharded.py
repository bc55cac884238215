"""A domain of more interactions than memory holds: the same rules, over shards of them.

Held whole are the catalogue (the driver has the item table, each worker the ids), eight bytes a
user and a byte a rating. Interactions are in files, of which a process holds one at a time:

1. `_read`: each part of the source is read by its reader, as ever. What a column decides as a whole
   (are times dates, in which unit, are all numbers whole) is decided from what the parts report.
2. `_split`: rows are parted by ranges of user ids. So a user's events come together, and the
   ranges, one after the other, have the users in the order of their indices.
3. `_gather`: the rows of a range, in file order, without what is dropped as repeated.
4. `_drop_weak`, for a k-core: users are counted in their range, items by the driver over all of
   them. A round drops what a round of `kcore` drops, and reports how much; the last drops nothing.
5. `_arrange`: item indices, and each user's events in order.

Each is a function of files that returns little, called for every task of a stage by whatever runs
stages (`beam.open_stages`). The rules are functions that the path in memory calls too:
`raw.read_columns`, `raw.find_duplicates`, `kcore.find_enough`, `assemble.arrange`. What is drawn
for the whole, said of it or written of it then goes over `Domain.pieces` in the driver, one after
the other, since its random numbers are one stream. So a domain is the same, bit by bit, whether it
was assembled in memory or in shards of any size.

A part is read whole by one worker, and a range has the events of one user at least: these two, and
the catalogue, are what a worker's memory must hold.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recalign.domains import assemble, kcore, raw, values
from recalign.domains.domain import Domain
from recalign.domains.raw import RawDomain
from recalign.domains.scratch import Scratch
from recalign.domains.source import ShardedSource, Source, resolve
from recalign.errors import UserError

# Gives the results of a function for each of some tuples of arguments, in their order.
Stages = Callable[[Callable[..., Any], Sequence[tuple]], Iterator[Any]]

ROWS = 1 << 20  # of a range of users, about
_SAMPLE = 1 << 8  # one user id is looked at of so many rows


@dataclasses.dataclass(frozen=True, eq=False)
class ShardedDomain(Domain):
    """A domain whose events are in files; `events`, `ratings`, `timestamps` and `keys` are None.

    Attributes:
      files: a piece each.
      times: the type of all timestamps; None where the source has none.
    """

    files: tuple[Scratch, ...] = ()
    times: str | None = None

    def pieces(self) -> Iterator[Domain]:
        """The pieces, read one at a time."""
        first = 0
        for file in self.files:
            piece = file.read()
            times = None if self.times is None else piece.timestamps.astype(self.times)
            parts = _parts_of(file)
            drawn = parts.read() if parts.path.exists() else None
            yield dataclasses.replace(piece, first_user=first, timestamps=times, stored_parts=drawn)
            first += piece.num_users

    def store_rating_parts(self, scratch: Path) -> None:
        """Draws the split of the ratings, which its pieces have from then on."""
        for file, part in zip(self.files, self.draw_rating_parts(scratch), strict=True):
            _parts_of(file).write(part)


def _parts_of(piece: Scratch) -> Scratch:
    return piece.beside(f"{piece.path.name}-parts")


@dataclasses.dataclass(frozen=True)
class _Part:
    """What is known of one part of the source once it is read.

    Attributes:
      names: its columns.
      columns: those of roles.
      rows: how many it has.
      missing: how often a role's value is missing.
      times: one of `values.UNITS` for dates, "Int64" or "Float64" for numbers, None for neither.
      units: see `raw.find_epoch_units`.
      users: a sample of the user ids, with those of more rows more often.
      items: the distinct item ids.
    """

    names: list[str]
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    rows: int = 0
    missing: Mapping[str, int] = dataclasses.field(default_factory=dict)
    times: str | None = None
    units: frozenset[str] = frozenset()
    users: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, object))
    items: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, object))


def build(
    source: ShardedSource,
    name: str,
    seed: int,
    k_core: int | None,
    drop_duplicates: bool,
    scratch: Scratch,
    run: Stages,
) -> tuple[ShardedDomain, RawDomain]:
    """Assembles a domain, as `assemble.assemble` does, from the parts of a source.

    Args:
      source: what to read.
      name: the domain's name.
      seed: as for `assemble`.
      k_core: as for `kcore.k_core`; None for no filter.
      drop_duplicates: as of `raw.drop_duplicates`.
      scratch: a folder that workers share; the domain's files stay there.
      run: runs stages.

    Returns:
      The domain, and what the source has, with each item of its interactions once.

    Raises:
      UserError: as the reader, `k_core` and `assemble` do; or the parts differ in their columns.
    """
    domain, plan, ranges = _read_source(source, scratch, run)
    tasks = [(slices, drop_duplicates, scratch / f"range-{n}") for n, slices in enumerate(ranges)]
    repeated, users, counts = _sum(run(_gather, tasks), len(plan["keys"]))
    for file in {place[0] for slices in ranges for place in slices}:
        file.path.unlink()
    files = [task[-1] for task in tasks]
    domain.counts["duplicate_interactions_kept"] = repeated
    domain.interactions = pd.DataFrame({"item": plan["keys"]})
    if source.read_items:
        source.read_items(domain)
    if drop_duplicates:
        raw.note_dropped(domain, repeated)
    if k_core:
        domain, files = _filter(domain, plan["keys"], files, users, counts, k_core, run)
    items = assemble.make_catalogue(domain, seed)
    index = scratch / "index"
    index.write(assemble.find_items(items, plan["keys"]).astype(np.int32))
    # Of the catalogue a piece needs the size alone.
    bare = Domain(name, pd.DataFrame(index=range(len(items))), None, None, seed=seed)
    pieces = [scratch / f"piece-{n}" for n in range(len(files))]
    tasks = [(*both, index, bare) for both in zip(files, pieces, strict=True)]
    arranged = list(run(_arrange, tasks))
    lengths = np.concatenate([report[0] for report in arranged])
    assemble.check_lengths(lengths)
    kinds = {report[2] for report in arranged if len(report[0])}
    if "timestamp" in domain.columns["interactions"]:
        domain.counts["users_in_file_order"] = sum(report[1] for report in arranged)
    sharded = ShardedDomain(
        name=name,
        items=items,
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        events=None,
        seed=seed,
        files=tuple(p for p, report in zip(pieces, arranged, strict=True) if len(report[0])),
        times="float64" if "float64" in kinds else kinds.pop(),
    )
    return sharded, domain


def _read_source(
    source: ShardedSource, scratch: Scratch, run: Stages
) -> tuple[RawDomain, dict[str, Any], list[list[tuple]]]:
    """Reads all parts, and parts their rows by ranges of users.

    Returns:
      The counts, columns and warnings; `keys`, the item ids, sorted, and what else all workers
      know; and for each range where its rows are, in file order.
    """
    reads = [scratch / f"read-{n}" for n in range(len(source.parts))]
    ways = (source.read_part, source.chosen)
    tasks = [(*ways, *both) for both in zip(source.parts, reads, strict=True)]
    parts, keys = [], set()
    for part in run(_read, tasks):
        keys |= set(part.items)
        parts.append(dataclasses.replace(part, items=np.zeros(0, object)))
    columns = _merge_columns(source, parts)
    names = dict.fromkeys(name for part in parts for name in part.names)
    domain = RawDomain()
    missing = {role: sum(part.missing.get(role, part.rows) for part in parts) for role in columns}
    ignored = [name for name in names if name not in columns.values()]
    path = source.path if len(parts) > 1 else source.parts[0]
    raw.note_columns(domain, path, columns, ignored, missing)
    sample = np.sort(np.concatenate([part.users for part in parts]))
    ranges = -(-sum(part.rows for part in parts) // ROWS)
    bounds = np.unique(sample[np.linspace(0, len(sample), ranges, endpoint=False).astype(int)])
    plan = {
        "bounds": bounds,
        "keys": np.array(sorted(keys), object),
        "columns": columns,
        "times": _merge_times(source, parts),
    }
    shared = scratch / "plan"
    shared.write(plan)
    tasks = [(read, shared, scratch / f"split-{n}") for n, read in enumerate(reads)]
    found: list[list[tuple]] = [[] for _ in range(len(bounds) + 1)]
    for task, places in zip(tasks, run(_split, tasks), strict=True):
        for number, start, stop in places:
            found[number].append((task[-1], start, stop))
    for read in reads:
        read.path.unlink(missing_ok=True)
    return domain, plan, [places for places in found if places]


def _merge_columns(source: ShardedSource, parts: Sequence[_Part]) -> dict[str, str]:
    """The columns of roles; a part may lack one that need not be there."""
    if not any(part.rows for part in parts):
        raise UserError(f"{source.path}: there is a header but no rows")
    columns: dict[str, str] = {}
    for role in raw.INTERACTION_ROLES:
        found = dict.fromkeys(p.columns[role] for p in parts if role in p.columns)
        if len(found) > 1:
            raise UserError(
                f"{source.path}: the {role} is in the column {' in one part, in '.join(found)} in "
                f"another; say which is meant"
            )
        columns |= dict.fromkeys([role], *found) if found else {}
    return columns


def _merge_times(source: ShardedSource, parts: Sequence[_Part]) -> str | None:
    """What `_Part.times` is of all parts."""
    raw.refuse_mixed_units(source.path, frozenset().union(*(part.units for part in parts)))
    found = {part.times for part in parts} - {None}
    if not found:
        return "Int64"
    if found <= {*values.UNITS}:
        return max(found, key=values.UNITS.index)
    if found & {*values.UNITS}:
        raise UserError(f"{source.path}: times are dates in some parts and numbers in others")
    return min(found)  # Float64, where one part has it


def _read(
    read_part: Callable[[Path], Source], chosen: Mapping[str, str | None], part: Path, out: Scratch
) -> _Part:
    source = read_part(part)
    names = list(source.frame.columns)
    if source.frame.empty:
        return _Part(names)
    columns = resolve(source, raw.INTERACTION_ROLES, chosen)
    frame = raw.read_columns(source, columns, values.read_moments)
    out.write(frame)
    times, units = None, frozenset()
    if "timestamp" in columns and (given := frame["timestamp"].dropna()).size:
        units = frozenset(raw.find_epoch_units(given))
        times = values.find_unit(given) if values.holds_dates(given) else str(given.dtype)
    return _Part(
        names=names,
        columns=columns,
        rows=len(frame),
        missing={role: int(frame[role].isna().sum()) for role in columns},
        times=times,
        units=units,
        users=np.sort(frame["user"].to_numpy(object))[::_SAMPLE],
        items=frame["item"].unique().astype(object),
    )


def _split(read: Scratch, shared: Scratch, out: Scratch) -> list[tuple[int, int, int]]:
    """For each range with rows of a part: its number, and the bytes of `out` that hold the rows."""
    if not read.path.exists():
        return []
    plan = shared.read()
    frame = read.read()
    codes, items = pd.factorize(frame["item"])
    frame["item"] = pd.Index(plan["keys"]).get_indexer(items.astype(object))[codes].astype(np.int32)
    if "timestamp" in plan["columns"]:
        frame["timestamp"] = _settle_times(frame.get("timestamp"), plan["times"], len(frame))
    if "rating" in plan["columns"] and "rating" not in frame:
        frame["rating"] = np.float32(np.nan)
    codes, users = pd.factorize(frame["user"])
    numbers = np.searchsorted(plan["bounds"], users.to_numpy(object), side="right")[codes]
    ranges = np.unique(numbers)
    places = out.write_all(frame[numbers == number] for number in ranges)
    return [(number, *place) for number, place in zip(ranges.tolist(), places, strict=True)]


def _settle_times(times: pd.Series | None, kind: str, rows: int) -> pd.Series:
    """Times in the way of all parts, `_Part.times`; a part may have none."""
    if times is not None and values.holds_dates(times):
        return values.count_time(times, kind)
    dtype = "Float64" if kind in ("us", "Float64") else "Int64"
    return pd.Series(pd.NA, range(rows), dtype=dtype) if times is None else times.astype(dtype)


def _gather(
    slices: Sequence[tuple[Scratch, int, int]], drop_duplicates: bool, out: Scratch
) -> tuple[int, int, tuple[np.ndarray, np.ndarray]]:
    """How many rows of a range repeat an earlier one, how many users it has, and `_count`."""
    frames = [file.read(start, stop) for file, start, stop in slices]
    frame = pd.concat(frames, ignore_index=True)
    repeated = raw.find_duplicates(frame)
    if drop_duplicates:
        frame = frame[~repeated].reset_index(drop=True)
    out.write(frame)
    return int(repeated.sum()), frame["user"].nunique(), _count(frame)


def _count(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The items of some rows, and how many rows each has."""
    return np.unique(frame["item"].to_numpy(), return_counts=True)


def _sum(
    reports: Iterable[tuple[int, int, tuple[np.ndarray, np.ndarray]]], items: int
) -> tuple[int, int, np.ndarray]:
    """Two numbers and `_count` of all ranges together, as int64[items]; one report at a time."""
    rows, users, counts = 0, 0, np.zeros(items, np.int64)
    for some_rows, some_users, (found, number) in reports:
        rows, users = rows + some_rows, users + some_users
        counts[found] += number
    return rows, users, counts


def _filter(
    domain: RawDomain,
    keys: np.ndarray,
    files: list[Scratch],
    users: int,
    counts: np.ndarray,
    k: int,
    run: Stages,
) -> tuple[RawDomain, list[Scratch]]:
    """The k-core: the domain, with counts, and the files of what is left of each range."""
    rounds, dropped = 0, 0
    while True:
        # A range is never written over: whoever runs the stages may do a task twice.
        shared = files[0].beside(f"counts-{rounds}")
        shared.write(counts)
        outs = [file.beside(f"{file.path.name.split('.')[0]}.{rounds}") for file in files]
        tasks = [(*both, shared, k) for both in zip(files, outs, strict=True)]
        now, left, counts = _sum(run(_drop_weak, tasks), len(keys))
        for file in (*files, shared):
            file.path.unlink()
        files = outs
        if not now:
            break
        rounds, dropped = rounds + 1, dropped + now
    core = dataclasses.replace(domain, interactions=pd.DataFrame({"item": keys[counts > 0]}))
    return kcore.keep_survivors(core, k, len(keys), rounds, users - left, dropped), files


def _drop_weak(
    file: Scratch, out: Scratch, shared: Scratch, k: int
) -> tuple[int, int, tuple[np.ndarray, np.ndarray]]:
    """How many rows were dropped, how many users are left, and `_count` of what is left."""
    frame = file.read()
    users, _ = pd.factorize(frame["user"])
    counts = shared.read()
    enough = kcore.find_enough(users, frame["item"].to_numpy(), counts, k)
    core = frame[enough].reset_index(drop=True)
    out.write(core)
    return len(frame) - len(core), core["user"].nunique(), _count(core)


def _arrange(
    file: Scratch, out: Scratch, index: Scratch, bare: Domain
) -> tuple[np.ndarray, int, str | None]:
    """How many events each user of a range has, how many lack a time, and the type of times."""
    frame = file.read()
    if frame.empty:
        return np.zeros(0, np.int64), 0, None
    codes = index.read()[frame["item"].to_numpy()]
    piece, undated = assemble.arrange(frame, codes, bare)
    out.write(piece)
    return piece.lengths, undated, piece.timestamps.dtype.name if piece.has_times else None
