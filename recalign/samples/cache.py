"""Writes what the engine is fed as a folder of arrays, see `recalign.engine.cached_input`."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tqdm

from recalign.engine.cached_input import METADATA, STORED, with_derived


def write_batches(
    batches: Iterator[Mapping[str, np.ndarray]], num_batches: int, folder: Path
) -> int:
    """Writes the first batches of an input, without what can be derived from the rest.

    Args:
      batches: features int[B, length] each, B the same in all.
      num_batches: how many; at least 1.
      folder: gets a file for each feature; it must exist.

    Returns:
      How many rows that is.
    """
    progress = tqdm.tqdm(
        range(num_batches), "caching", unit="batch", disable=not sys.stderr.isatty()
    )
    files: dict[str, np.memmap] = {}
    for number in progress:
        batch = next(batches)
        stored = {name: batch[name] for name in STORED if name in batch}
        _check_derived(batch, with_derived(stored))
        for name, values in stored.items():
            if name not in files:
                files[name] = np.lib.format.open_memmap(
                    folder / f"{name}.npy",
                    mode="w+",
                    dtype=_dtype(name),
                    shape=(num_batches * len(values), values.shape[1]),
                )
            if values.max(initial=0) > np.iinfo(files[name].dtype).max:
                raise ValueError(f"{name} holds {values.max()}, more than a {files[name].dtype}")
            files[name][number * len(values) : (number + 1) * len(values)] = values
    for file in files.values():
        file.flush()
    return len(next(iter(files.values())))


def _dtype(feature: str) -> type:
    # Segments are counted from 1 within a row; token ids of the vocabularies in use need two bytes,
    # but those of mT5, for one, do not.
    return np.uint16 if feature.endswith("segment_ids") else np.uint32


def _check_derived(batch: Mapping[str, np.ndarray], derived: Mapping[str, np.ndarray]) -> None:
    """Nothing may be lost: what is not stored must come back as it was."""
    for name in batch.keys() | derived.keys():
        if name not in batch or not np.array_equal(batch[name], derived[name]):
            raise ValueError(f"the feature {name} does not follow from {', '.join(STORED)}")


def write_metadata(folder: Path, **values: object) -> None:
    """Writes `metadata.json`, which makes the folder a whole one."""
    (folder / METADATA).write_text(json.dumps(values, indent=2) + "\n")
