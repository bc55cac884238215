"""A folder that `recalign cache` wrote as the `Data` of a run, see `recalign.evaluation.data`.

Beside what `recalign.tokens.batches` tells of, the folder holds

    examples/SPLIT/TASK.npz  see `recalign.evaluation.examples.save`
    items/TASK.npy           how the model must write each item, where a task asks for items
    domains/NAME/            the files of each domain
    train.gin                the recipe that reads the folder
"""

import functools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NoReturn

import gin
import numpy as np

from recalign import domains
from recalign.errors import UserError
from recalign.evaluation import examples as stored
from recalign.evaluation.examples import ALONE, Examples, Share
from recalign.files import locate
from recalign.tokens import batches
from recalign.tokens.batches import CachedBatches

EXAMPLES, ITEMS, DOMAINS = "examples", "items", "domains"


@gin.configurable
class TokenData:
    """All that a run reads, in tokens: no TensorFlow.

    Args:
      directory: the folder.
      batch_size: rows a batch, whatever it was when the folder was written.
      seed: of the order of the rows in passes after the first.
    """

    def __init__(self, directory: str, batch_size: int, seed: int = 0):
        self._directory = str(locate(directory))
        self._batch_size = batch_size
        self._seed = seed
        # The tasks of a folder mostly share one domain, which need not be read for each of them.
        self._domain = functools.cache(
            lambda name: domains.load(name, Path(self._directory) / DOMAINS)
        )

    def batch_shapes(self) -> dict[str, tuple[int, int]]:
        """See `Data`."""
        batch = next(CachedBatches(self._directory, 1))
        return {name: (self._batch_size, rows.shape[1]) for name, rows in batch.items()}

    def train_batches(
        self, held: np.ndarray | None = None, own: np.ndarray | None = None
    ) -> CachedBatches:
        """See `Data`."""
        return CachedBatches(self._directory, self._batch_size, self._seed, held, own)

    def examples(
        self,
        split: str,
        num_examples: int | None = None,
        task: str | None = None,
        share: Share = ALONE,
    ) -> list[Examples]:
        """See `Data`; of validation there are as many as EVAL_EXAMPLES said at first, or fewer.

        They are made already, so that each process reads all.
        """
        del share
        self._metadata()  # says what is wrong
        paths = {path.stem: path for path in (Path(self._directory) / EXAMPLES / split).glob("*")}
        if task is not None and task not in paths:
            known = ", ".join(sorted(paths)) or "none"
            raise UserError(
                f"{self._directory} has no task {task!r} that can be judged; it has: {known}"
            )
        found = [
            stored.load(path, self._domain)
            for name, path in sorted(paths.items())
            if task in (None, name)
        ]
        return [stored.first(e, len(e) if num_examples is None else num_examples) for e in found]

    def item_tokens(self, task: str) -> np.ndarray:
        """See `Data`."""
        folder = Path(self._directory)
        if (path := folder / ITEMS / f"{task}.npy").exists():
            return np.load(path, mmap_mode="r")
        # Until version 0.1.0 each split's examples held them.
        with np.load(folder / EXAMPLES / "test" / f"{task}.npz", allow_pickle=False) as examples:
            return examples["catalogue"]

    def questions(self, task: str) -> NoReturn:
        """Raises a UserError: to write a question takes the text plane, which is not here."""
        raise UserError(
            f"{self._directory} holds the questions about its examples in tokens, and nothing that "
            "would write others: train with the recipe that it was written from, and recommend "
            "from that run"
        )

    def decode(self, tokens: Sequence[int]) -> str:
        """See `Data`."""
        return batches.decode(tokens, self._directory)

    def vocabulary(self) -> bytes:
        """See `Data`."""
        return (Path(self._directory) / batches.VOCABULARY).read_bytes()

    def vocabulary_size(self) -> int:
        """See `Data`."""
        return self._metadata()["vocabulary_size"]

    def idle(self) -> Collection[str]:
        """See `Data`; the folder's recipe configures no samples."""
        return ()

    def provenance(self) -> dict[str, str]:
        """See `Data`."""
        return self._metadata()["provenance"]

    def _metadata(self) -> dict:
        return batches.metadata(self._directory)
