"""The index of a catalogue on disk: built once, kept beside its domain, mapped into memory.

    DOMAIN/index-FINGERPRINT/index.json   sizes, fingerprint, checksum
    DOMAIN/index-FINGERPRINT/NAME.npy     one an array of `CatalogueIndex`

The fingerprint is that of the items' token sequences. So it is another one as soon as anything that
they are made from is: the items, the vocabulary, the form in which an item is written.
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from recalign.engine.search.trie import CatalogueIndex, as_matrix, check
from recalign.files import in_bucket

log = logging.getLogger(__name__)

# What a folder holds; another number when it holds something else.
FORMAT = 2
DESCRIPTION = "index.json"

_SIZES = [field.name for field in dataclasses.fields(CatalogueIndex) if field.metadata]
_ARRAYS = [field.name for field in dataclasses.fields(CatalogueIndex) if not field.metadata]


def index_of(
    sequences: np.ndarray | Sequence[Sequence[int]],
    folder: os.PathLike | None = None,
    num_vocab: int | None = None,
) -> CatalogueIndex:
    """The index of a catalogue: the one that is kept in a folder, or else built and kept there.

    Any number of processes may ask at once. What is kept but damaged is told, and built again;
    where nothing can be kept, the index is only built.

    Args:
        sequences: as for `CatalogueIndex.build`.
        folder: of the domain; None, or one in a bucket, keeps nothing.
        num_vocab: the size of the vocabulary, to check the ids against.

    Returns:
        The index in numpy; its arrays stay on disk until touched if they were kept.

    Raises:
        UserError: as for `CatalogueIndex.build`, whether or not the index is kept.
    """
    tokens = as_matrix(sequences)
    if folder is None or in_bucket(folder):
        return CatalogueIndex.build(tokens, num_vocab)
    source = fingerprint(tokens)
    path = Path(folder) / f"index-{source}"
    if path.exists():
        check(tokens, num_vocab)  # what is kept may be too much for another model's vocabulary
        try:
            return load(path, source)
        except Exception as error:  # a damaged header may make numpy raise anything
            log.warning("%s is damaged and built again: %s", path, error)
            shutil.rmtree(path, ignore_errors=True)
    index = CatalogueIndex.build(tokens, num_vocab)
    try:
        save(index, path, source)
    except OSError as error:
        log.info("%s: the index cannot be kept, and is built each time: %s", folder, error)
    return index


def fingerprint(tokens: np.ndarray) -> str:
    """16 hexadecimal digits for token sequences int[N, L], in their order."""
    tokens = np.ascontiguousarray(tokens, np.int32)
    digest = hashlib.sha256(f"{FORMAT} {tokens.shape}".encode())
    digest.update(tokens.data)
    return digest.hexdigest()[:16]


def save(index: CatalogueIndex, path: Path, source: str) -> None:
    """Writes an index, made from what has the fingerprint `source`, as a folder.

    Raises:
        OSError: it cannot be written, and nothing is; or such an index is there already.
    """
    sizes = {name: getattr(index, name) for name in _SIZES}
    arrays = {name: np.asarray(getattr(index, name)) for name in _ARRAYS}
    draft = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        draft.mkdir()
        for name, values in arrays.items():
            np.save(draft / f"{name}.npy", values)
        described = {"source": source, "checksum": _checksum(sizes, arrays), **sizes}
        (draft / DESCRIPTION).write_text(json.dumps(described), encoding="utf-8")
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load(path: Path, source: str) -> CatalogueIndex:
    """Maps what `save` wrote into memory.

    Raises:
        ValueError: it is damaged, or was made from something else.
        OSError: a file is missing.
    """
    described = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
    sizes = {name: tuple(described[name]) for name in _SIZES}
    arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    if described["source"] != source:
        raise ValueError(f"it is the index of {described['source']}, not of {source}")
    if described["checksum"] != _checksum(sizes, arrays):
        raise ValueError("its checksum is wrong")
    return CatalogueIndex(**arrays, **sizes)


def _checksum(sizes: Mapping[str, Sequence[int]], arrays: Mapping[str, np.ndarray]) -> int:
    """Of all that an index holds: what is damaged would recommend wrong items, and never fail."""
    total = zlib.crc32(json.dumps([list(sizes[name]) for name in _SIZES]).encode())
    for name in _ARRAYS:
        values = arrays[name]
        total = zlib.crc32(f"{name} {values.dtype.str} {values.shape}".encode(), total)
        total = zlib.crc32(values.data, total)
    return total
