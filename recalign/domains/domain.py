"""A prepared domain in memory: sequences of item indices by user, and their splits."""

import dataclasses
import functools
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

SPLITS = ("train", "validation", "test")
# Leave-one-out needs one event for each of the three splits.
MIN_EVENTS = 3


class Sequences(NamedTuple):
    """Item indices by user: user u has `events[offsets[u]:offsets[u + 1]]`, oldest first.

    Attributes:
      offsets: int64[num_users + 1].
      events: int32[offsets[-1]], item indices.
    """

    offsets: np.ndarray
    events: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The examples of one split; example e asks for `targets[e]` after its history.

    The history is `events[offsets[e]:offsets[e + 1]]`, oldest first; `len()` is the number m of
    examples. The TFDS records of the split are the same examples in the same order.

    Attributes:
      users: int32[m], user indices, ascending, each at most once.
      offsets: int64[m + 1].
      events: int32[offsets[-1]], item indices.
      targets: int32[m], item indices.
      ratings: float32[offsets[-1]], the ratings of `events`; None where the domain has none.
      target_ratings: float32[m], or None.
    """

    users: np.ndarray
    offsets: np.ndarray
    events: np.ndarray
    targets: np.ndarray
    ratings: np.ndarray | None = None
    target_ratings: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    def history(self, example: int) -> np.ndarray:
        """int32, the item indices of one example's history, oldest first."""
        return self.events[self.offsets[example] : self.offsets[example + 1]]


@dataclasses.dataclass(frozen=True, eq=False)
class Domain:
    """A catalogue and every user's events, in chronological order.

    Attributes:
      name: the domain's name, also the name of its TFDS build and of its SeqIO tasks.
      items: the catalogue, one row an item, row i = item index i; columns `key` (the source's id),
        `title`, `brand`, `categories` (str, "" where unknown), then what else the source gave.
      offsets: int64[num_users + 1]; user u has `events[offsets[u]:offsets[u + 1]]`.
      events: int32[n], item indices, by user index, then oldest first.
      ratings: float32[n], nan where one is missing; None where the source has no ratings.
      timestamps: int64[n], or float64[n] with nan where one is missing; None where the source has
        none. Seconds for dates, otherwise in the source's unit.
      statistics: what `statistics.json` holds.
      path: the folder it was loaded from; None for a domain that is not on disk.
      keys: str[num_users], the source's user ids; None where `user_keys` reads them from `path`.
    """

    name: str
    items: pd.DataFrame
    offsets: np.ndarray
    events: np.ndarray
    ratings: np.ndarray | None = None
    timestamps: np.ndarray | None = None
    statistics: dict = dataclasses.field(default_factory=dict, repr=False)
    path: Path | None = None
    keys: np.ndarray | None = dataclasses.field(default=None, repr=False)

    @property
    def num_items(self) -> int:
        """The size of the catalogue, items without interactions included."""
        return len(self.items)

    @property
    def num_users(self) -> int:
        """The number of users, those with a single event included."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64[num_users], how many events each user has."""
        return np.diff(self.offsets)

    @property
    def vocabulary_path(self) -> Path | None:
        """The domain's own SentencePiece model; None means the public T5 vocabulary."""
        path = self.path / "spiece.model" if self.path else None
        return path if path and path.exists() else None

    @functools.cached_property
    def user_keys(self) -> np.ndarray:
        """Object array of str, [num_users]: the source's id of each user index."""
        if self.keys is not None:
            return self.keys
        users = io.BytesIO((self.path / "users.parquet").read_bytes())
        return pd.read_parquet(users)["key"].to_numpy(object)

    def train(self) -> Sequences:
        """Every user's train events, for popularity, co-occurrence and negatives.

        With three events or more those are all but the last two (the test and validation targets),
        with fewer they are all.
        """
        lengths = _train_lengths(self.lengths)
        offsets = _offsets(lengths)
        return Sequences(offsets, self.events[_positions(self.offsets[:-1], lengths)])

    def split(self, name: str) -> Split:
        """The examples of "train", "validation" or "test" (leave-one-out).

        test asks for the last event after all others, validation for the last but one after those
        before it; train asks for the last train event after the train events before it, and is
        made from train events alone. A train history may be empty. Users with fewer than three
        events are in train only.
        """
        if name not in SPLITS:
            raise ValueError(f"no split {name!r}: the splits are {', '.join(SPLITS)}")
        lengths = self.lengths
        if name == "train":
            users = np.flatnonzero(lengths >= 1)
            history = _train_lengths(lengths)[users] - 1
        else:
            users = np.flatnonzero(lengths >= MIN_EVENTS)
            history = lengths[users] - (1 if name == "test" else 2)
        starts = self.offsets[:-1][users]
        positions = _positions(starts, history)
        targets = starts + history
        return Split(
            users=users.astype(np.int32),
            offsets=_offsets(history),
            events=self.events[positions],
            targets=self.events[targets],
            ratings=None if self.ratings is None else self.ratings[positions],
            target_ratings=None if self.ratings is None else self.ratings[targets],
        )


def _train_lengths(lengths: np.ndarray) -> np.ndarray:
    return np.where(lengths >= MIN_EVENTS, lengths - 2, lengths)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _positions(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64[sum(lengths)]: starts[0], …, starts[0] + lengths[0] - 1, starts[1], …."""
    ends = np.cumsum(lengths, dtype=np.int64)
    shift = starts - (ends - lengths)
    return np.repeat(shift, lengths) + np.arange(lengths.sum(), dtype=np.int64)
