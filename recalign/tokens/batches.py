"""Batches from a folder of samples in tokens: no TensorFlow, any batch at once, exact resumption.

`recalign cache` writes the rows that a training reads, in their order, as plain .npy files:

    manifest.json            what its files were; earlier versions wrote none
    metadata.json            rows, vocabulary_size, provenance, eval_examples
    train/FEATURE.npy        [rows, length], of the features in `STORED`
    spiece.model             the vocabulary, sentinels included

What follows from these (shifted targets, positions) is made when a batch is read. Memory
is mapped, so that a process touches the rows of its batches only.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from etils import epath

from recalign.engine.search.trie import EOS
from recalign.engine.weights.manifest import MANIFEST, find_damage
from recalign.errors import UserError
from recalign.files import in_bucket

STORED = (
    "encoder_input_tokens",
    "decoder_target_tokens",
    "encoder_segment_ids",
    "decoder_segment_ids",
    "decoder_loss_weights",
)
METADATA, ROWS = "metadata.json", "train"
VOCABULARY = "spiece.model"


class CachedBatches:
    """Endless batches from a folder that `recalign cache` wrote; its position is one number.

    The first pass is in the order of the files, which is that of the live input; in later ones the
    rows are in another order each, by the seed.

    Args:
      directory: the folder.
      batch_size: rows a batch, whatever it was when the folder was written.
      seed: of the order in later passes.
      held: int64[h], the rows of each batch that are read; by default all.
      own: those of them that no other process answers for; who has the first one of a batch writes
        the position, which is that of all.

    Raises:
      UserError: there is no such folder, or it is damaged.
    """

    def __init__(
        self,
        directory: str,
        batch_size: int,
        seed: int = 0,
        held: np.ndarray | None = None,
        own: np.ndarray | None = None,
    ):
        self._rows = metadata(directory)["rows"]
        self._stored = _open(Path(directory) / ROWS, self._rows)
        self._batch_size = batch_size
        self._seed = seed
        self._held = np.arange(batch_size) if held is None else held
        self._writes = own is None or 0 in own
        self._position = 0
        self._order = (0, None)  # a pass and the permutation of its rows

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """int32[rows, length] of each of SeqIO's encoder-decoder features."""
        positions = self._position + self._held
        rows = np.concatenate(
            [
                self._permute(int(part[0]) // self._rows, part % self._rows)
                for part in np.split(
                    positions, np.flatnonzero(np.diff(positions // self._rows)) + 1
                )
            ]
        )
        self._position += self._batch_size
        return with_derived({name: values[rows] for name, values in self._stored.items()})

    def _permute(self, epoch: int, rows: np.ndarray) -> np.ndarray:
        if not epoch:
            return rows
        if self._order[0] != epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(self._rows)
            self._order = (epoch, order)
        return self._order[1][rows]

    def save(self, path: epath.PathLike) -> None:
        """Writes the position, how many rows were read."""
        if self._writes:
            epath.Path(path).write_text(json.dumps({"rows_read": self._position}), encoding="utf-8")

    def reset(self) -> None:
        """Starts anew."""
        self._position = 0

    def restore(self, path: epath.PathLike) -> None:
        """Goes to a position that was saved, perhaps with another batch size."""
        self._position = json.loads(epath.Path(path).read_text(encoding="utf-8"))["rows_read"]


def metadata(directory: str) -> dict:
    """What `recalign cache` wrote of a folder.

    Raises:
      UserError: it wrote none, or did not finish; the folder is damaged, or in a bucket.
    """
    if in_bucket(directory):
        raise UserError(
            f"TOKENS_DIR is {directory}, but must be a local folder: its arrays are mapped into "
            "memory; copy it here first (gcloud storage rsync --recursive …)"
        )
    folder = Path(directory)
    again = "write the folder with `recalign cache --gin_file=… --output DIR`"
    try:
        found = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        written = (folder / MANIFEST).stat().st_mtime_ns if (folder / MANIFEST).exists() else None
    except (OSError, ValueError) as error:
        raise UserError(
            f"TOKENS_DIR is {folder}, but {folder / METADATA} cannot be read ({error}): {again}"
        ) from error
    if written and (damage := _find_damage(folder, written)):
        raise UserError(f"TOKENS_DIR is {folder}, but {damage}: {again}")
    return found


@functools.lru_cache(maxsize=1)
def _find_damage(folder: Path, written: int) -> str | None:
    """What is wrong with a folder; of rows, which may be gigabytes, sizes alone are compared."""
    del written  # a folder may be written again
    small = [path.name for path in folder.iterdir() if path.name != ROWS]
    path = epath.Path(folder)
    return find_damage(path, hashes=False) or find_damage(path, small)


def decode(tokens: Sequence[int], directory: str) -> str:
    """Token ids as text, up to EOS."""
    tokens = list(tokens)
    tokens = tokens[: tokens.index(EOS)] if EOS in tokens else tokens
    path = Path(directory) / VOCABULARY
    return _processor(str(path), path.stat().st_mtime_ns).decode(tokens)


@functools.lru_cache(maxsize=1)
def _processor(path: str, written: int) -> sentencepiece.SentencePieceProcessor:
    del written  # a folder may be written again with another vocabulary
    return sentencepiece.SentencePieceProcessor(model_file=path)


def _open(folder: Path, rows: int) -> dict[str, np.ndarray]:
    try:
        stored = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in STORED
            if name in STORED[:2] or (folder / f"{name}.npy").exists()
        }
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is damaged ({error}): write it again") from error
    for name, values in stored.items():
        if len(values) != rows:
            raise UserError(
                f"{folder}/{name}.npy has {len(values)} rows where {rows} were written: write the "
                "folder again"
            )
    return stored


def with_derived(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All of SeqIO's encoder-decoder features, int32[B, length], from those in `STORED`.

    As `seqio.EncDecFeatureConverter` makes them: targets are shifted right within each segment, and
    positions count from the start of a segment. Folders of an earlier version hold no weights:
    every target in them that is not padding weighs 1.
    """
    batch = {name: values.astype(np.int32) for name, values in stored.items()}
    targets = batch["decoder_target_tokens"]
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    for side in ("encoder", "decoder"):
        if (segments := batch.get(f"{side}_segment_ids")) is None:
            continue
        starts = np.diff(segments, axis=1, prepend=0) != 0
        places = np.arange(segments.shape[1])
        first = np.maximum.accumulate(np.where(starts, places, 0), axis=1)
        batch[f"{side}_positions"] = np.where(segments > 0, places - first, 0).astype(np.int32)
        if side == "decoder":
            shifted = np.where(starts, 0, shifted)
    batch["decoder_input_tokens"] = shifted.astype(np.int32)
    batch.setdefault("decoder_loss_weights", (targets > 0).astype(np.int32))
    return batch
