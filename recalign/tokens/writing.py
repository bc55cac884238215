"""Writes all that a run reads as a folder of arrays, for machines without TensorFlow.

`recalign.tokens.data` reads it.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from recalign.domains import storage
from recalign.domains.domain import Domain
from recalign.engine.weights.manifest import write_manifest
from recalign.errors import UserError
from recalign.evaluation import examples as stored
from recalign.evaluation.data import Data
from recalign.evaluation.examples import RetrievalExamples
from recalign.progress import track
from recalign.tokens.batches import METADATA, ROWS, STORED, VOCABULARY, with_derived
from recalign.tokens.data import DOMAINS, EXAMPLES, ITEMS

# What is no token needs fewer bytes.
_SMALL = {
    "encoder_segment_ids": np.uint16,
    "decoder_segment_ids": np.uint16,
    "decoder_loss_weights": np.uint8,
}


def write(data: Data, steps: int, eval_examples: int | None, recipe: str, folder: Path) -> int:
    """Writes the batches of so many steps, and the examples that a run is evaluated by.

    Args:
      data: what to write of.
      steps: how many batches, at least 1.
      eval_examples: so many examples of validation, the first of each task; None for all.
      recipe: train.gin of the folder.
      folder: where to; it must not exist.

    Returns:
      How many rows.

    Raises:
      UserError: the folder is there already, there is no step, or the data cannot be read.
    """
    if steps < 1:
        raise UserError(f"TRAIN_STEPS is {steps}, but a cache holds the batches of at least 1")
    if folder.exists():
        raise UserError(f"{folder} is there already: name another folder, or remove it")
    vocabulary_size = data.vocabulary_size()
    with storage.replacing(folder, overwrite=False) as draft:
        for name in (DOMAINS, ITEMS, ROWS):
            (draft / name).mkdir()
        dtype = np.min_scalar_type(vocabulary_size - 1)
        rows = write_batches(data.train_batches(), steps, draft / ROWS, dtype)
        for split, number in (("validation", eval_examples), ("test", None)):
            (draft / EXAMPLES / split).mkdir(parents=True)
            for examples in data.examples(split, number):
                stored.save(examples, draft / EXAMPLES / split / f"{examples.task}.npz")
                _copy_domain(examples.domain, draft / DOMAINS)
                if isinstance(examples, RetrievalExamples):
                    path = draft / ITEMS / f"{examples.task}.npy"
                    np.save(path, data.item_tokens(examples.task))
        (draft / VOCABULARY).write_bytes(data.vocabulary())
        (draft / "train.gin").write_text(recipe, encoding="utf-8")
        metadata = {
            "rows": rows,
            "vocabulary_size": vocabulary_size,
            "provenance": data.provenance(),
            "eval_examples": eval_examples,
        }
        (draft / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
        write_manifest(draft, also=(METADATA, VOCABULARY))  # the recipe may be changed
    return rows


def _copy_domain(domain: Domain, folder: Path) -> None:
    """Copies the files of a domain, without its TFDS builds."""
    target = folder / domain.name
    if target.exists():
        return
    target.mkdir()
    for path in domain.path.iterdir():
        if path.is_file():
            shutil.copyfile(path, target / path.name)


def write_batches(
    batches: Iterator[Mapping[str, np.ndarray]], num_batches: int, folder: Path, dtype: np.dtype
) -> int:
    """Writes the first batches of an input, without what can be derived from the rest.

    Args:
      batches: features int[B, length] each, B the same in all.
      num_batches: how many; at least 1.
      folder: gets a file for each feature; it must exist.
      dtype: holds every token id.

    Returns:
      How many rows that is.
    """
    files: dict[str, np.memmap] = {}
    for number in track(range(num_batches), "caching", "batch"):
        batch = next(batches)
        stored = {name: batch[name] for name in STORED if name in batch}
        _check_derived(batch, with_derived(stored))
        for name, values in stored.items():
            if name not in files:
                files[name] = np.lib.format.open_memmap(
                    folder / f"{name}.npy",
                    mode="w+",
                    dtype=_SMALL.get(name, dtype),
                    shape=(num_batches * len(values), values.shape[1]),
                )
            files[name][number * len(values) : (number + 1) * len(values)] = values
    for file in files.values():
        file.flush()
    return len(next(iter(files.values())))


def _check_derived(batch: Mapping[str, np.ndarray], derived: Mapping[str, np.ndarray]) -> None:
    """Nothing may be lost: what is not stored must come back as it was."""
    for name in batch.keys() | derived.keys():
        if not np.array_equal(batch.get(name), derived.get(name)):
            raise ValueError(f"the feature {name} does not follow from {', '.join(STORED)}")
