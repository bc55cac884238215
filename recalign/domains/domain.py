"""A prepared domain in memory: sequences of item indices by user, and their splits."""

import dataclasses
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from recalign import prompts
from recalign.domains import candidates, rating
from recalign.domains.codes import Codes
from recalign.files import in_bucket, read_parquet

SPLITS = ("train", "validation", "test")
CANDIDATE_SPLITS = ("validation", "test")
# Streams of random numbers apart from each other and from that of the item indices.
_CANDIDATES, _RATING = 1, 2
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
    """

    users: np.ndarray
    offsets: np.ndarray
    events: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.users)


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
      seed: of what is drawn for the domain: candidate lists and the split of the ratings.
      stored_parts: see `rating_parts`; None where it is yet to be drawn.
      keys: str[num_users], the source's user ids; None where `user_keys` reads them from `path`.
      codes: what the model's ids of items are made of; None where they are numbers.
      first_user: what a piece of a domain counts its users from, see `pieces`.
    """

    name: str
    items: pd.DataFrame
    offsets: np.ndarray
    events: np.ndarray
    ratings: np.ndarray | None = None
    timestamps: np.ndarray | None = None
    statistics: dict = dataclasses.field(default_factory=dict, repr=False)
    path: Path | None = None
    seed: int = 0
    stored_parts: np.ndarray | None = dataclasses.field(default=None, repr=False)
    keys: np.ndarray | None = dataclasses.field(default=None, repr=False)
    codes: Codes | None = dataclasses.field(default=None, repr=False)
    first_user: int = 0

    def pieces(self) -> Iterator["Domain"]:
        """The domain, as domains of some users each, in the order of users; here it is one piece.

        What is told of a domain, drawn for it or written of it is made from its pieces, one at a
        time, so that it can be made for one that memory does not hold. User indices in a piece are
        its own, from 0; that of the whole is `first_user` more.
        """
        yield self

    @property
    def num_items(self) -> int:
        """The size of the catalogue, items without interactions included."""
        return len(self.items)

    @property
    def num_users(self) -> int:
        """The number of users, those with a single event included."""
        return len(self.offsets) - 1

    @property
    def num_events(self) -> int:
        """The number of all users' events."""
        return int(self.offsets[-1])

    @property
    def lengths(self) -> np.ndarray:
        """int64[num_users], how many events each user has."""
        return np.diff(self.offsets)

    @property
    def has_times(self) -> bool:
        """Whether the source has timestamps."""
        return next(self.pieces()).timestamps is not None

    @property
    def has_ratings(self) -> bool:
        """Whether the source has ratings."""
        return next(self.pieces()).ratings is not None

    @functools.cached_property
    def user_keys(self) -> np.ndarray:
        """Object array of str, [num_users]: the source's id of each user index."""
        if self.keys is not None:
            return self.keys
        users = read_parquet(self.path / "users.parquet").to_pandas()
        return users["key"].to_numpy(object)

    @functools.cached_property
    def item_ids(self) -> np.ndarray:
        """Object array of str, [num_items]: how the model names each item."""
        if self.codes is not None:
            return self.codes.texts()
        numbers = range(self.num_items)
        return np.array([prompts.item_id(i, self.num_items) for i in numbers], dtype=object)

    @property
    def id_pieces(self) -> list[str]:
        """The pieces of a vocabulary that all ids are written in, for one that has none of them."""
        if self.codes is not None:
            return self.codes.pieces()
        return [f"\u2581{text}" for text in self.item_ids]

    @functools.cached_property
    def rating_parts(self) -> np.ndarray | None:
        """int8[n], the part of each event in the rating split, a value of `rating.PARTS`.

        Ratings of train events alone have one, see `recalign.domains.rating`. None without ratings.
        """
        if self.stored_parts is not None or self.ratings is None:
            return self.stored_parts
        return next(self.draw_rating_parts())

    def draw_rating_parts(self, scratch: Path | None = None) -> Iterator[np.ndarray]:
        """For each piece its `rating_parts`, as drawn by the seed; `scratch` as of `rating.parts`.

        The domain must have ratings.
        """

        def list_rated() -> Iterator[rating.Rated]:
            for piece in self.pieces():
                users = np.repeat(np.arange(piece.num_users), piece.lengths)
                eligible = np.isfinite(piece.ratings)
                age = np.repeat(piece.offsets[1:], piece.lengths) - np.arange(len(users))
                eligible &= (age > 2) | (piece.lengths < MIN_EVENTS)[users]
                yield rating.Rated(users, piece.events, eligible)

        return rating.parts(list_rated, self.num_items, (self.seed, _RATING), scratch)

    @property
    def has_rating_task(self) -> bool:
        """Whether there are ratings enough to train on, to validate on and to test on."""
        if not self.has_ratings:
            return False
        found = set().union(*(np.unique(piece.rating_parts) for piece in self.pieces()))
        return {*rating.PARTS.values()} <= found

    def train(self) -> Sequences:
        """Every user's train events, for popularity, co-occurrence and negatives.

        With three events or more those are all but the last two (the test and validation targets),
        with fewer they are all.
        """
        lengths = _train_lengths(self.lengths)
        offsets = _offsets(lengths)
        return Sequences(offsets, self.events[list_positions(self.offsets[:-1], lengths)])

    def train_times(self) -> np.ndarray | None:
        """When the events of `train()` were, in their order, as in `timestamps`; None without."""
        if self.timestamps is None:
            return None
        return self.timestamps[list_positions(self.offsets[:-1], _train_lengths(self.lengths))]

    def num_examples(self, name: str) -> int:
        """The number of examples of "train", "validation" or "test"."""
        return int((self.lengths >= (1 if name == "train" else MIN_EVENTS)).sum())

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
        targets = starts + history
        return Split(
            users=users.astype(np.int32),
            offsets=_offsets(history),
            events=self.events[list_positions(starts, history)],
            targets=self.events[targets],
        )

    def candidates(self, name: str) -> np.ndarray:
        """The candidate lists of "validation" or "test", int32[m, C], row e for example e.

        A row is the example's target and C - 1 distinct items that the user has no event with in
        any split, in random order. C is 100 unless the catalogue is too small, see
        `candidates.num_negatives`. On local disk the lists are not loaded, but mapped.
        """
        if name not in CANDIDATE_SPLITS:
            raise ValueError(f"{name!r} has no candidate lists: {', '.join(CANDIDATE_SPLITS)} do")
        if self.path is None:
            return np.concatenate([*self.draw_candidates(name)[1]])
        path = self.path / f"candidates_{name}.npy"
        if in_bucket(path):
            return np.load(io.BytesIO(path.read_bytes()))
        return np.load(path, mmap_mode="r")

    def draw_candidates(self, name: str) -> tuple[tuple[int, int], Iterator[np.ndarray]]:
        """The shape of the candidate lists of a split, and the lists as drawn by the seed."""
        negatives = min(
            candidates.num_negatives(piece.train(), self.num_items, MIN_EVENTS - 1)
            for piece in self.pieces()
        )
        splits = ((piece, piece.split(name)) for piece in self.pieces())
        asked = ((piece, split.users, split.targets) for piece, split in splits)
        seed = (self.seed, _CANDIDATES, SPLITS.index(name))
        lists = candidates.draw(asked, self.num_items, negatives, seed)
        return (self.num_examples(name), 1 + negatives), lists

    def rating_split(self, name: str) -> rating.RatingSplit:
        """The ratings of "train", "validation" or "test": 8:1:1, see `recalign.domains.rating`.

        Raises:
          ValueError: the domain has no ratings, or there is no such split.
        """
        if self.rating_parts is None or name not in rating.PARTS:
            raise ValueError(f"{self.name} has no rating split {name!r}")
        users = np.repeat(np.arange(self.num_users, dtype=np.int32), self.lengths)
        train = self.rating_parts == rating.PARTS["train"]
        here = self.rating_parts == rating.PARTS[name]
        return rating.RatingSplit(
            users=users[here],
            items=self.events[here],
            ratings=self.ratings[here],
            train_offsets=_offsets(np.bincount(users[train], minlength=self.num_users)),
            train_items=self.events[train],
            train_ratings=self.ratings[train],
        )


def _train_lengths(lengths: np.ndarray) -> np.ndarray:
    return np.where(lengths >= MIN_EVENTS, lengths - 2, lengths)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def list_positions(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64[sum(lengths)]: starts[0], …, starts[0] + lengths[0] - 1, starts[1], …."""
    ends = np.cumsum(lengths, dtype=np.int64)
    shift = starts - (ends - lengths)
    return np.repeat(shift, lengths) + np.arange(lengths.sum(), dtype=np.int64)
