"""The split of ratings into train, validation and test, 8:1:1.

It is made within the train events of the leave-one-out split. A rating sample shows items that one
user had, so a held-out event among them would tell a model that is trained on all tasks together
what the retrieval and ranking tests ask for.
"""

import dataclasses

import numpy as np

PARTS = {"train": 0, "validation": 1, "test": 2}
NO_PART = -1


@dataclasses.dataclass(frozen=True, eq=False)
class RatingSplit:
    """The ratings of one split, by user, then oldest first; `len()` is their number m.

    Attributes:
      users: int32[m], user indices.
      items: int32[m], item indices, each at most once a user.
      ratings: float32[m], none missing.
      train_offsets: int64[num_users + 1].
      train_items: int32[t]; user u's training ratings, oldest first, are those of the items
        `train_items[train_offsets[u]:train_offsets[u + 1]]`, in every split.
      train_ratings: float32[t].
    """

    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray
    train_offsets: np.ndarray
    train_items: np.ndarray
    train_ratings: np.ndarray

    def __len__(self) -> int:
        return len(self.users)


def parts(
    users: np.ndarray, items: np.ndarray, eligible: np.ndarray, seed: tuple[int, ...]
) -> np.ndarray:
    """The part that each event's rating plays.

    An item that a user has rated more than once counts once, with the newest rating. One random
    rating of each user and of each item stays in train; a tenth of all, of the others, is for
    validation and as many for test, or what there is for equal halves.

    Args:
      users: integer[n], by user, then oldest first.
      items: integer[n].
      eligible: bool[n], the events that have a rating and may be used.
      seed: decides which.

    Returns:
      int8[n], a value of `PARTS`, or `NO_PART`.
    """
    rng = np.random.default_rng(seed)
    events = np.flatnonzero(eligible)[::-1]
    keys = users[events] * np.int64(items.max(initial=0) + 1) + items[events]
    order = rng.permutation(np.sort(events[_first_of_each(keys)]))
    stays = np.zeros(len(order), bool)
    stays[_first_of_each(users[order])] = True
    stays[_first_of_each(items[order])] = True
    others = order[~stays]
    held = min(len(order) // 10, len(others) // 2)
    part = np.full(len(users), NO_PART, np.int8)
    part[order] = PARTS["train"]
    part[others[:held]] = PARTS["validation"]
    part[others[held : 2 * held]] = PARTS["test"]
    return part


def _first_of_each(values: np.ndarray) -> np.ndarray:
    """The position of every distinct value's first occurrence."""
    return np.unique(values, return_index=True)[1]
