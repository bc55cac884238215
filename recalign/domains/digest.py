"""The content hash of a domain: two with the same hash hold the same values."""

import hashlib
from collections.abc import Iterable

import numpy as np

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
        _add_texts(hashed, f"items {name}", domain.items[name])
    if domain.codes is not None:
        _add_texts(hashed, "item ids", domain.item_ids)
    _add_texts(hashed, "users", domain.user_keys)
    _add_array(hashed, "offsets", domain.offsets, "<i8")
    _add_array(hashed, "events", domain.events, "<i4")
    _add_array(hashed, "ratings", domain.ratings, "<f4")
    _add_array(hashed, "rating parts", domain.rating_parts, "<i1")
    if domain.timestamps is not None:
        kind = "<f8" if domain.timestamps.dtype.kind == "f" else "<i8"
        _add_array(hashed, f"timestamps {kind}", domain.timestamps, kind)
    for name in SPLITS:
        split = domain.split(name)
        for part in ("users", "offsets", "targets"):
            _add_array(hashed, f"{name} {part}", getattr(split, part), "<i8")
    for name in CANDIDATE_SPLITS:
        _add_array(hashed, f"{name} candidates", domain.candidates(name), "<i4")
    return f"sha256 {hashed.hexdigest()[:16]}"


def _add_texts(hashed: "hashlib._Hash", label: str, texts: Iterable[str]) -> None:
    """Adds texts, each with its length, so that none can run into the next."""
    encoded = [text.encode() for text in texts]
    _add_array(hashed, label, np.array([len(text) for text in encoded], np.int64), "<i8")
    hashed.update(b"".join(encoded))


def _add_array(hashed: "hashlib._Hash", label: str, array: np.ndarray | None, kind: str) -> None:
    """Adds an array with its shape, little-endian; every nan is the same one."""
    shape = None if array is None else array.shape
    hashed.update(f"{label} {shape}\n".encode())
    for start in range(0, 0 if array is None else len(array), _ROWS):
        block = np.array(array[start : start + _ROWS], kind)  # the lists are mapped, not loaded
        if block.dtype.kind == "f":
            block = np.where(np.isnan(block), np.nan, block + 0).astype(kind)  # -0 is 0
        hashed.update(block.tobytes())
