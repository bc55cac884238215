"""The k-core of a domain: users and items with at least k events, to a fixed point."""

import dataclasses

import numpy as np
import pandas as pd

from recalign.domains.raw import RawDomain
from recalign.errors import UserError


def k_core(domain: RawDomain, k: int) -> RawDomain:
    """Drops users and items with fewer than `k` events until none is left to drop.

    A repeated purchase counts each time. The catalogue keeps the surviving items only. All events
    count, those of validation and test too, as in the field's published 5-core files.

    Args:
      domain: left as it is.
      k: at least 1.

    Returns:
      The filtered domain; its counts tell what was dropped, with how many rounds it took.

    Raises:
      UserError: nothing survives.
    """
    events = domain.interactions
    users, user_keys = pd.factorize(events["user"])
    items, item_keys = pd.factorize(events["item"])
    kept, rounds = _fixed_point(users, items, k)
    if not kept.any():
        raise UserError(f"--k-core {k} drops every interaction; choose a smaller number")
    surviving = pd.unique(events["item"][kept])
    table = domain.items
    if table is not None:
        table = table[table["key"].isin(surviving)].reset_index(drop=True)
    catalogue = len(item_keys) if domain.items is None else len(domain.items)
    counts = {
        "k_core_rounds": rounds,
        "k_core_dropped_users": len(user_keys) - len(np.unique(users[kept])),
        "k_core_dropped_items": catalogue - (len(surviving) if table is None else len(table)),
        "k_core_dropped_interactions": int((~kept).sum()),
    }
    return dataclasses.replace(
        domain,
        interactions=events[kept].reset_index(drop=True),
        items=table,
        counts=domain.counts | counts,
    )


def _fixed_point(users: np.ndarray, items: np.ndarray, k: int) -> tuple[np.ndarray, int]:
    """bool[n], which events survive, and the number of rounds that dropped any."""
    alive = np.arange(len(users))
    rounds = 0
    while True:
        enough = (np.bincount(users[alive])[users[alive]] >= k) & (
            np.bincount(items[alive])[items[alive]] >= k
        )
        if enough.all():
            break
        alive = alive[enough]
        rounds += 1
    kept = np.zeros(len(users), bool)
    kept[alive] = True
    return kept, rounds
