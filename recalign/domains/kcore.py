"""The k-core of a domain: users and items with at least k events, to a fixed point."""

import dataclasses

import numpy as np
import pandas as pd

from recalign.domains.raw import RawDomain, list_items
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
    core = dataclasses.replace(domain, interactions=events[kept].reset_index(drop=True))
    users_dropped = len(user_keys) - len(np.unique(users[kept]))
    return keep_survivors(core, k, len(item_keys), rounds, users_dropped, int((~kept).sum()))


def keep_survivors(
    core: RawDomain, k: int, items_before: int, rounds: int, users: int, interactions: int
) -> RawDomain:
    """A domain whose interactions were filtered, with its item table filtered too, and counts.

    Args:
      core: its interactions need no other column than `item`, and to name each item but once.
      k: as for `k_core`.
      items_before: how many items the interactions had.
      rounds: how many dropped any.
      users: how many were dropped.
      interactions: how many were dropped.

    Raises:
      UserError: nothing survives.
    """
    surviving = list_items(core.interactions)
    if not len(surviving):
        raise UserError(f"--k-core {k} drops every interaction; choose a smaller number")
    table = core.items
    if table is not None:
        table = table[table["key"].isin(surviving)].reset_index(drop=True)
        items_before = len(core.items)
    counts = {
        "k_core_rounds": rounds,
        "k_core_dropped_users": users,
        "k_core_dropped_items": items_before - (len(surviving) if table is None else len(table)),
        "k_core_dropped_interactions": interactions,
    }
    return dataclasses.replace(core, items=table, counts=core.counts | counts)


def find_enough(users: np.ndarray, items: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """bool[n], the events whose user has `k` of them, and whose item has `k` by `counts`."""
    return (np.bincount(users)[users] >= k) & (counts[items] >= k)


def _fixed_point(users: np.ndarray, items: np.ndarray, k: int) -> tuple[np.ndarray, int]:
    """bool[n], which events survive, and the number of rounds that dropped any."""
    alive = np.arange(len(users))
    rounds = 0
    while True:
        enough = find_enough(users[alive], items[alive], np.bincount(items[alive]), k)
        if enough.all():
            break
        alive = alive[enough]
        rounds += 1
    kept = np.zeros(len(users), bool)
    kept[alive] = True
    return kept, rounds
