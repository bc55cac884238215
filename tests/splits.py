"""What an example of a domain's split asks after."""

import numpy as np

from recalign.domains.domain import Split
from recalign.domains.rating import RatingSplit


def history(split: Split, example: int) -> np.ndarray:
    """int32, the item indices of one example's history, oldest first."""
    return split.events[split.offsets[example] : split.offsets[example + 1]]


def rated(split: RatingSplit, example: int) -> tuple[np.ndarray, np.ndarray]:
    """What may be known when a rating is asked for: the user's training ratings of other items.

    Item indices int32[h] and their ratings float32[h], oldest first.
    """
    user = split.users[example]
    there = slice(split.train_offsets[user], split.train_offsets[user + 1])
    others = split.train_items[there] != split.items[example]
    return split.train_items[there][others], split.train_ratings[there][others]
