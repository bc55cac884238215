"""The content hash of a domain: two with the same hash hold the same values."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recalign.domains.candidates import read_rows
from recalign.domains.catalogue import COLUMNS
from recalign.domains.domain import CANDIDATE_SPLITS, SPLITS, Domain

_ROWS = 1 << 16


def digest(domain: Domain) -> str:
    """Hashes all that a model can learn from, or be judged by.

    That is the ids and texts of items and users, every event in its order, with its time and
    rating, the three splits, the candidate lists, and the split of the ratings. Values are hashed,
    never a file's bytes, which change with the version that wrote them. Further columns of the
    items reach no model and have no say.

    Returns:
      "sha256 " and 16 hexadecimal digits; the same for a domain in memory and from disk, in every
      process and on every platform.
    """
    hashed = hashlib.sha256()
    for name in COLUMNS:
        _add_texts(hashed, f"items {name}", len(domain.items), lambda n=name: [domain.items[n]])
    if domain.codes is not None:
        _add_texts(hashed, "item ids", len(domain.items), lambda: [domain.item_ids])

    def each(attribute: str) -> Iterator[np.ndarray]:
        return (getattr(piece, attribute) for piece in domain.pieces())

    _add_texts(hashed, "users", domain.num_users, lambda: each("user_keys"))
    _add_array(hashed, "offsets", domain.offsets.shape, [domain.offsets], "<i8")
    events = (domain.num_events,)
    _add_array(hashed, "events", events, each("events"), "<i4")
    rated = events if domain.has_ratings else None
    _add_array(hashed, "ratings", rated, each("ratings") if rated else (), "<f4")
    _add_array(hashed, "rating parts", rated, each("rating_parts") if rated else (), "<i1")
    if domain.has_times:
        kind = "<f8" if next(each("timestamps")).dtype.kind == "f" else "<i8"
        _add_array(hashed, f"timestamps {kind}", events, each("timestamps"), kind)
    for name in SPLITS:
        size = domain.num_examples(name)
        for part, shape in (("users", (size,)), ("offsets", (size + 1,)), ("targets", (size,))):
            _add_array(hashed, f"{name} {part}", shape, _list_split(domain, name, part), "<i8")
    for name in CANDIDATE_SPLITS:
        lists = domain.candidates(name)
        starts = range(0, len(lists), _ROWS)
        blocks = (read_rows(lists, start, start + _ROWS) for start in starts)
        _add_array(hashed, f"{name} candidates", lists.shape, blocks, "<i4")
    return f"sha256 {hashed.hexdigest()[:16]}"


def _list_split(domain: Domain, name: str, part: str) -> Iterator[np.ndarray]:
    """An array of a split of the whole domain, from those of its pieces."""
    history = 0
    if part == "offsets":
        yield np.zeros(1, np.int64)
    for piece in domain.pieces():
        split = piece.split(name)
        if part == "offsets":
            yield split.offsets[1:] + history
            history += split.offsets[-1]
        else:
            yield getattr(split, part) + (piece.first_user if part == "users" else 0)


def _add_texts(
    hashed: "hashlib._Hash", label: str, size: int, parts: Callable[[], Iterable[Sequence[str]]]
) -> None:
    """Adds texts, each with its length, so that none can run into the next."""

    def encode() -> Iterator[pa.Array]:
        for part in parts():
            for start in range(0, len(part), _ROWS):
                block = pa.array(part[start : start + _ROWS], pa.string())
                yield block.combine_chunks() if isinstance(block, pa.ChunkedArray) else block

    lengths = (pc.binary_length(block).to_numpy() for block in encode())
    _add_array(hashed, label, (size,), lengths, "<i8")
    for block in encode():
        whole = pa.ListArray.from_arrays(pa.array([0, len(block)], pa.int32()), block)
        hashed.update(pc.binary_join(whole, "")[0].as_buffer())


def _add_array(
    hashed: "hashlib._Hash",
    label: str,
    shape: tuple[int, ...] | None,
    parts: Iterable[np.ndarray],
    kind: str,
) -> None:
    """Adds an array, in parts, with its shape, little-endian; every nan is the same one."""
    hashed.update(f"{label} {shape}\n".encode())
    for array in parts:
        for start in range(0, len(array), _ROWS):
            block = np.array(array[start : start + _ROWS], kind)
            if block.dtype.kind == "f":
                block = np.where(np.isnan(block), np.nan, block + 0).astype(kind)  # -0 is 0
            hashed.update(block.tobytes())
