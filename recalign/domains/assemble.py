"""From a source's own terms to a domain: item indices, user indices, chronological order."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from recalign.domains.catalogue import TEXT_COLUMNS
from recalign.domains.domain import MIN_EVENTS, Domain
from recalign.domains.raw import RawDomain, list_items, number_ids
from recalign.errors import UserError, quote


def assemble(raw: RawDomain, name: str, seed: int = 0) -> Domain:
    """Orders and indexes a domain.

    Item indices are a random permutation by `seed` of the catalogue sorted by key, so no event has
    a say in them. The catalogue is the whole item table, and the items that interactions name and
    the table lacks are added under an empty title; without a table it is the items of the
    interactions.
    User indices follow the sorted user keys.

    Each user's events are ordered by timestamp, ties in file order; a user with any timestamp
    missing keeps file order.

    Args:
      raw: a reader's result; gets the counts `items_without_metadata`,
        `items_without_interactions` and `users_in_file_order`, and warnings.
      name: the domain's name.
      seed: of the permutation, and of what is drawn later for the domain.

    Raises:
      UserError: no user has three events, or the table has none of the items of the events, or
        has them under other spellings.
    """
    items = make_catalogue(raw, seed)
    item_codes, item_keys = number_ids(raw.interactions["item"])
    codes = find_items(items, item_keys)[item_codes]
    domain, undated = arrange(raw.interactions, codes, Domain(name, items, None, None, seed=seed))
    check_lengths(domain.lengths)
    if domain.has_times:
        raw.counts["users_in_file_order"] = undated
    return domain


def find_items(items: pd.DataFrame, keys: Sequence[str]) -> np.ndarray:
    """int[n], the indices of items in a catalogue that has all of them."""
    return pd.Index(items["key"].astype("str")).get_indexer(pd.Index(keys).astype("str"))


def arrange(events: pd.DataFrame, codes: np.ndarray, domain: Domain) -> tuple[Domain, int]:
    """A domain with its users' events in order, and how many users lack a time.

    Args:
      events: all events of its users, as in `RawDomain`; items are not looked at.
      codes: int[n], the item index of each.
      domain: gives the rest.
    """
    found, keys = pd.factorize(events["user"])
    ranks, user_keys = pd.factorize(pd.Index(keys).astype("str"), sort=True)
    user_codes = ranks[found]
    counts = np.bincount(user_codes, minlength=len(user_keys))
    times = events.get("timestamp")
    order = chronological_order(user_codes, times)
    undated = () if times is None else np.unique(user_codes[times.isna().to_numpy()])
    arranged = dataclasses.replace(
        domain,
        offsets=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        events=codes[order].astype(np.int32),
        ratings=events["rating"].to_numpy(np.float32)[order] if "rating" in events else None,
        timestamps=None if times is None else _timestamp_array(times)[order],
        keys=np.asarray(user_keys, object),
    )
    return arranged, len(undated)


def check_lengths(lengths: np.ndarray) -> None:
    """Raises a UserError where no user has events enough to hold any out; int[users]."""
    if lengths.max() < MIN_EVENTS:
        raise UserError(
            f"no user has {MIN_EVENTS} interactions or more, so there is nothing to validate or "
            "test on (one event is held out for each)"
        )


def chronological_order(users: np.ndarray, timestamps: pd.Series | None) -> np.ndarray:
    """int64[n], the events by user, then timestamp, ties in file order.

    Args:
      users: integer[n], the user of each event in file order.
      timestamps: Int64 or Float64 [n], <NA> where missing; None for file order.
    """
    if timestamps is None:
        return np.argsort(users, kind="stable")
    missing = timestamps.isna().to_numpy()
    undated = np.zeros(users.max() + 1, bool)
    undated[users[missing]] = True
    # One time for all of an undated user's events leaves them in file order: lexsort is stable.
    exact = np.int64 if timestamps.dtype == "Int64" else np.float64
    times = np.where(undated[users], exact(0), timestamps.to_numpy(exact, na_value=exact(0)))
    low, high = times.min(), times.max()
    span = int(high) - int(low) + 1
    if exact is np.int64 and len(undated) * span < 2**63:  # one sort takes a third of two
        return np.argsort(users * np.int64(span) + (times - low), kind="stable")
    return np.lexsort((times, users))


def _timestamp_array(timestamps: pd.Series) -> np.ndarray:
    if timestamps.dtype == "Int64" and not timestamps.isna().any():
        return timestamps.to_numpy(np.int64)
    return timestamps.to_numpy(np.float64, na_value=np.nan)


def make_catalogue(raw: RawDomain, seed: int) -> pd.DataFrame:
    """The catalogue in index order, see `assemble`; interactions need no column but `item`."""
    bought = list_items(raw.interactions)
    if raw.items is None:
        items = _without_titles(bought)
        raw.warnings.append("no item table: every title is empty, items are known by id alone")
    else:
        known = pd.Index(raw.items["key"])
        unknown = bought.difference(known)
        if len(unknown) == len(bought) and len(known):
            raise UserError(
                f"none of the {len(bought):,} items bought is in the item table: there ids are "
                f"like {quote(known[0])}, in the interactions like {quote(bought[0])}"
            )
        idle = known.difference(bought)
        _refuse_twins(unknown, idle)
        raw.counts["items_without_metadata"] = len(unknown)
        raw.counts["items_without_interactions"] = len(idle)
        items = pd.concat([raw.items, _without_titles(unknown)]) if len(unknown) else raw.items
        if len(unknown):
            raw.warnings.append(
                f"the item table lacks {len(unknown)} of the items bought, such as {unknown[0]!r}; "
                "they are kept with an empty title"
            )
    items = items.sort_values("key", kind="stable").reset_index(drop=True)
    for name in items.columns.difference(["key", *TEXT_COLUMNS]):
        if not pd.api.types.is_numeric_dtype(items[name]):
            items[name] = items[name].fillna("")
    index = np.random.default_rng(seed).permutation(len(items))
    return items.iloc[np.argsort(index)].reset_index(drop=True)


def _refuse_twins(unknown: pd.Index, idle: pd.Index) -> None:
    """Raises a UserError where items bought, most of them, are in the table under other spellings.

    Args:
      unknown: str[n], the items bought that the table lacks.
      idle: str[m], the items of the table that nobody bought.
    """

    def spell(key: str) -> str:
        return key.casefold().lstrip("0")

    spelled = {spell(key): key for key in idle}
    twins = [(key, spelled[spell(key)]) for key in unknown if spell(key) in spelled]
    if twins and 2 * len(twins) >= len(unknown):
        ours, theirs = twins[0]
        raise UserError(
            f"{len(twins)} of the items bought are in the item table under another spelling, such "
            f"as {quote(ours)} as {quote(theirs)}: write ids alike in both (spreadsheets, and "
            "programs that take ids for numbers, drop leading zeros)"
        )


def _without_titles(keys: pd.Index) -> pd.DataFrame:
    return pd.DataFrame({"key": np.asarray(keys, object)} | dict.fromkeys(TEXT_COLUMNS, ""))
