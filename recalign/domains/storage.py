"""Prepared domains on disk: `DATA_DIR/NAME/`, written whole or not at all."""

import contextlib
import dataclasses
import functools
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from recalign.domains import candidates
from recalign.domains.codes import Codes
from recalign.domains.digest import digest
from recalign.domains.domain import CANDIDATE_SPLITS, Domain
from recalign.domains.values import mend
from recalign.errors import UserError
from recalign.files import in_bucket, locate, read_parquet

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MARK = "recalign_version"
STATISTICS = "statistics.json"
# What a folder holds; another number when it holds something else.
FORMAT = 2
_GROUP_ROWS = 1 << 20


def data_dir(given: str | os.PathLike | None = None) -> epath.Path:
    """Where prepared domains live: `given`, else $RECALIGN_DATA_DIR, else ~/.cache/recalign.

    A local folder or one in a bucket (gs://…), from which domains are read; they are prepared on
    local disk and copied there.
    """
    path = given or os.environ.get("RECALIGN_DATA_DIR") or "~/.cache/recalign"
    return epath.Path(locate(path))


_root = data_dir  # for where a parameter has that name


def check_name(name: str) -> None:
    """Raises a UserError unless `name` can name a TFDS dataset and SeqIO tasks."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot name a domain: a name starts with a lower-case letter and has only "
            "lower-case letters, digits and underscores"
        )


def check_local(folder: Path) -> None:
    """Raises a UserError where a domain is to be written into a bucket, or has no name in UTF-8."""
    if mend(str(folder)) != str(folder):
        raise UserError(f"{folder}: not a name in UTF-8, which TensorFlow Datasets needs")
    if in_bucket(folder):
        raise UserError(
            f"{folder}: domains are prepared on local disk; prepare it there and copy its folder"
        )


def read_statistics(folder: Path) -> dict | None:
    """The statistics of the domain in a folder; None where there is no prepared domain."""
    try:
        statistics = json.loads((folder / STATISTICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return statistics if isinstance(statistics, dict) and _MARK in statistics else None


def list_prepared(data_dir: str | os.PathLike | None = None) -> list[str]:
    """The names of the domains prepared in a data directory, sorted."""
    root = _root(data_dir)
    folders = root.iterdir() if root.is_dir() else ()
    return sorted(
        f.name for f in folders if _NAME.fullmatch(f.name) and read_statistics(f) is not None
    )


def load(name: str, data_dir: str | os.PathLike | None = None) -> Domain:
    """Reads a prepared domain; as long as it stays the same on disk, a process reads it once.

    Args:
      name: its name.
      data_dir: the data directory; None as for the function `data_dir`.

    Returns:
      The domain, which all callers share: its arrays cannot be written to, its table must not be.

    Raises:
      UserError: it is not prepared there, or by a recalign that wrote folders of another kind.
    """
    statistics = statistics_of(name, data_dir)
    return _read(_root(data_dir) / name, name, json.dumps(statistics))


def fingerprint(name: str, data_dir: str | os.PathLike | None = None) -> str:
    """The content hash of a prepared domain (`digest.digest`); arguments and errors as for `load`.

    It is read from `statistics.json`; a domain that was prepared before it stood there is loaded.
    """
    return statistics_of(name, data_dir).get("fingerprint") or digest(load(name, data_dir))


def statistics_of(name: str, data_dir: str | os.PathLike | None = None) -> dict:
    """What `statistics.json` of a prepared domain holds; arguments and errors as for `load`."""
    root = _root(data_dir)
    statistics = read_statistics(root / name)
    if statistics is None:
        there = ", ".join(list_prepared(root)) or "none"
        raise UserError(
            f"domain {name!r} is not prepared in {root}: run `recalign prepare …`; "
            f"prepared there: {there}"
        )
    if statistics.get("format") != FORMAT:
        raise UserError(
            f"domain {name!r} in {root} was prepared by another version of recalign "
            f"({statistics[_MARK]}): prepare it again with --overwrite"
        )
    return statistics


# A mixture has few domains. The statistics tell what the files hold, by its hash.
@functools.lru_cache(maxsize=4)
def _read(folder: Path, name: str, statistics_text: str) -> Domain:
    """Reads a domain's Parquet files."""
    statistics = json.loads(statistics_text)
    events = read_parquet(folder / "interactions.parquet")
    users = events["user"].to_numpy()
    offsets = np.searchsorted(users, np.arange(statistics["users"] + 1)).astype(np.int64)

    def column(name: str) -> np.ndarray | None:
        return _freeze(events[name].to_numpy()) if name in events.column_names else None

    return Domain(
        name=name,
        items=read_parquet(folder / "items.parquet").to_pandas(),
        offsets=_freeze(offsets),
        events=column("item"),
        ratings=column("rating"),
        timestamps=column("timestamp"),
        statistics=statistics,
        path=folder,
        seed=statistics.get("seed", statistics.get("options", {}).get("seed", 0)),
        stored_parts=column("rating_part"),
        codes=Codes.load(folder),
    )


def _freeze(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def write(domain: Domain, folder: Path) -> None:
    """Writes a domain's Parquet files, candidate lists and statistics into an existing folder."""
    _write_tables(map(_make_table, domain.pieces()), folder / "interactions.parquet")
    users = (pa.table({"key": pa.array(d.user_keys, pa.string())}) for d in domain.pieces())
    _write_tables(users, folder / "users.parquet")
    domain.items.to_parquet(folder / "items.parquet", index=False)
    if domain.codes is not None:
        domain.codes.save(folder)
    with ThreadPoolExecutor() as pool:  # NumPy draws and sorts without Python's lock
        written = pool.map(lambda name: _write_candidates(domain, name, folder), CANDIDATE_SPLITS)
        lists = dict(zip(CANDIDATE_SPLITS, written, strict=True))
    statistics = domain.statistics | {
        "format": FORMAT,
        "seed": domain.seed,
        "candidates": lists,
        # The lists are read from where they were just written.
        "fingerprint": digest(dataclasses.replace(domain, path=folder)),
    }
    write_statistics(statistics, folder)


def write_statistics(statistics: dict, folder: Path) -> None:
    """Writes `statistics.json` into the folder of a domain that is being written."""
    text = json.dumps(statistics, indent=2, ensure_ascii=False) + "\n"
    # A file's name may be no UTF-8: what Python makes of its bytes JSON has as escapes.
    (folder / STATISTICS).write_bytes(text.encode(errors="backslashreplace"))


def _make_table(piece: Domain) -> pa.Table:
    """The rows of `interactions.parquet` of one piece of a domain."""
    users = np.arange(piece.first_user, piece.first_user + piece.num_users, dtype=np.int32)
    columns = {"user": np.repeat(users, piece.lengths), "item": piece.events}
    if piece.timestamps is not None:
        times = piece.timestamps
        missing = np.isnan(times) if times.dtype.kind == "f" else None
        columns["timestamp"] = pa.array(times, mask=missing)
    if piece.ratings is not None:
        columns["rating"] = piece.ratings
        columns["rating_part"] = piece.rating_parts
    return pa.table(columns)


def _write_tables(tables: Iterator[pa.Table], path: Path) -> None:
    """Writes tables as one; where they are cut does not show in the file."""
    rest = next(tables)
    with pq.ParquetWriter(path, rest.schema) as writer:
        for table in tables:
            rest = pa.concat_tables([rest, table])
            whole = len(rest) // _GROUP_ROWS * _GROUP_ROWS
            if whole:
                writer.write_table(rest[:whole].combine_chunks(), _GROUP_ROWS)
                rest = rest[whole:]
        if len(rest):
            writer.write_table(rest.combine_chunks(), _GROUP_ROWS)


def _write_candidates(domain: Domain, name: str, folder: Path) -> dict:
    shape, lists = domain.draw_candidates(name)
    digest = candidates.write(folder / f"candidates_{name}.npy", lists, shape)
    return {"candidates": shape[1], "sha256": digest}


@contextlib.contextmanager
def replacing(target: Path, overwrite: bool) -> Iterator[Path]:
    """Gives a new empty folder beside `target` that takes its place when the block ends well.

    An older `target` stays until then; if the block fails, it stays for good and the new folder is
    removed.

    Raises:
      UserError: nothing can be written there, or `target` exists at the end and must not be
        overwritten.
    """
    check_local(target)
    mark = uuid.uuid4().hex[:8]
    fresh = target.with_name(f".{target.name}.partial-{mark}")
    old = target.with_name(f".{target.name}.old-{mark}")
    try:
        fresh.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{target.parent}: cannot be written to: {error.strerror}") from error
    try:
        yield fresh
        if target.exists() and not overwrite:
            raise UserError(
                f"{target} appeared while it was being prepared: is another one running?"
            )
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        # If the exchange failed half-way, `old` is all there is: put it back.
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)
