"""Writes all that a run reads as a folder of arrays, for machines without TensorFlow.

See `recalign.tokens.batches` and `recalign.tokens.examples`, which read it, and train.gin in
it, the run's recipe with these in the place of the text plane.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tqdm

from recalign.domains import storage
from recalign.domains.domain import Domain
from recalign.errors import UserError
from recalign.evaluation import examples as judged
from recalign.runs import configuration
from recalign.runs.run import Run
from recalign.samples import inputs
from recalign.tokens.batches import METADATA, STORED, VOCABULARY, with_derived
from recalign.tokens.examples import DOMAINS, EXAMPLES

_IMPORTS = """\
from __gin__ import dynamic_registration
from recalign.tokens import batches
from recalign.tokens import examples
"""
_BINDINGS = {
    "run.Run.train_input": "@batches.CachedBatches",
    "run.Run.vocabulary_size": "@batches.vocabulary_size",
    "run.Run.provenance": "@batches.provenance",
    "run.Run.decode": "@batches.decode",
    "run.Run.examples": "@examples.examples",
    "batches.CachedBatches.directory": "%TOKENS_DIR",
    "batches.CachedBatches.batch_size": "%BATCH_SIZE",
    "batches.CachedBatches.seed": "%RANDOM_SEED",
    "batches.vocabulary_size.directory": "%TOKENS_DIR",
    "batches.provenance.directory": "%TOKENS_DIR",
    "batches.decode.directory": "%TOKENS_DIR",
    "examples.examples.directory": "%TOKENS_DIR",
}


# What is no token needs fewer bytes.
_SMALL = {
    "encoder_segment_ids": np.uint16,
    "decoder_segment_ids": np.uint16,
    "decoder_loss_weights": np.uint8,
}


def write(run: Run, mixture_or_task_name: str, module: str, folder: Path) -> int:
    """Writes what a run reads: the batches of all its steps, and the examples it is judged by.

    Args:
      run: as the current configuration describes it.
      mixture_or_task_name: what it trains on.
      module: registers it.
      folder: where to; it must not exist.

    Returns:
      How many rows.

    Raises:
      UserError: the folder is there already, or the run cannot be fed.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already: name another folder, or remove it")
    vocabulary_size = run.vocabulary_size()
    with storage.replacing(folder, overwrite=False) as draft:
        for name in (DOMAINS, "train"):
            (draft / name).mkdir()
        dtype = np.min_scalar_type(vocabulary_size - 1)
        rows = write_batches(run.train_input(), run.total_steps, draft / "train", dtype)
        for split, number in (("validation", run.eval_examples), ("test", None)):
            (draft / EXAMPLES / split).mkdir(parents=True)
            for examples in run.examples(split=split, num_examples=number):
                judged.save(examples, draft / EXAMPLES / split / f"{examples.task}.npz")
                _copy_domain(examples.domain, draft / DOMAINS)
        provider = inputs.mixture_or_task(mixture_or_task_name, module)
        vocabulary = provider.output_features["targets"].vocabulary
        (draft / VOCABULARY).write_bytes(vocabulary.sp_model)
        (draft / "train.gin").write_text(recipe(folder.resolve()))
        metadata = {
            "rows": rows,
            "vocabulary_size": vocabulary_size,
            "provenance": run.provenance(),
        }
        (draft / METADATA).write_text(json.dumps(metadata, indent=2) + "\n")
    return rows


def recipe(folder: Path) -> str:
    """The current configuration as a recipe that reads `folder` and needs no text plane."""
    text = configuration.current()
    aliases = set(re.findall(r"^from recalign\.samples import (\w+)$", text, re.MULTILINE))
    of_text_plane = re.compile(rf"(?:\w+/)*(?:{'|'.join(aliases)})\.")
    imports = [
        line
        for line in re.findall(r"^(?:from|import) .*$", text, re.MULTILINE)
        if not line.startswith(("from recalign.samples", "from __gin__"))
    ]
    kept = {
        name: value
        for name, value in configuration.bindings(text).items()
        if not of_text_plane.match(name) and name != "run.Run.eval_examples"
    }
    kept |= {"TOKENS_DIR": repr(str(folder))} | _BINDINGS
    kept["MODEL_DIR"] = "%gin.REQUIRED"
    while unused := configuration.unused_macros(kept):
        kept = {name: value for name, value in kept.items() if name not in unused}
    macros = sorted(kept, key=lambda name: ("." in name, name))
    lines = [f"{name} = {kept[name]}" for name in macros]
    command = f"# recalign train --gin_file={folder}/train.gin --gin.MODEL_DIR=…\n\n"
    return command + _IMPORTS + "\n".join([*imports, "", *lines]) + "\n"


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
        if name not in batch or not np.array_equal(batch[name], derived[name]):
            raise ValueError(f"the feature {name} does not follow from {', '.join(STORED)}")
