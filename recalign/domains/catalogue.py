"""The item table: which columns it keeps, and its clean-ups."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from recalign.domains import cleaning, raw
from recalign.errors import shown

TEXT_COLUMNS = ("title", "brand", "categories")
COLUMNS = ("key", *TEXT_COLUMNS)


def read_items(
    source: raw.Source,
    chosen: Mapping[str, str | None],
    domain: raw.RawDomain,
    number_columns: Sequence[str] = (),
) -> None:
    """Sets a domain's item table, with its counts, columns and warnings.

    Every column is kept: those of a role under the role's name, the others under their own. Of rows
    with the same id the first is kept: identical ones are counted as `duplicate_items`, different
    ones as `conflicting_items` with a warning that names the first pair of lines.

    Args:
      source: the item table.
      chosen: {role: column}; "catalogue_item" names the item column if it differs from "item".
      domain: gets `items`.
      number_columns: further columns that hold numbers.

    Raises:
      UserError: a column is missing, an id is empty, or a number cannot be read.
    """
    roles = {role: chosen.get(role) for role in raw.ITEM_ROLES}
    roles["item"] = chosen.get("catalogue_item") or _same_name(source, domain, chosen)
    columns = raw.resolve(source, raw.ITEM_ROLES, roles)
    extras = {name: _free_name(name) for name in raw.unused(source, columns)}
    items = pd.DataFrame({"key": raw.ids(source, columns["item"])})
    for role in TEXT_COLUMNS:
        items[role] = raw.text(source, columns[role]) if role in columns else ""
    for name, kept in extras.items():
        is_number = name in number_columns
        items[kept] = raw.numbers(source, name) if is_number else raw.plain(source, name)
    items = _drop_duplicates(source, items, domain)
    _clean_texts(items, domain)
    domain.items = items.reset_index(drop=True)
    domain.columns["items"] = columns
    domain.columns["items_kept"] = list(extras.values())


def _same_name(
    source: raw.Source, domain: raw.RawDomain, chosen: Mapping[str, str | None]
) -> str | None:
    """The name of the interactions' item column, where the item table has it too."""
    name = domain.columns["interactions"]["item"]
    return name if name in source.frame.columns or chosen.get("item") else None


def _free_name(name: str) -> str:
    return f"{name}_" if name in COLUMNS else name


def _drop_duplicates(
    source: raw.Source, items: pd.DataFrame, domain: raw.RawDomain
) -> pd.DataFrame:
    same_key = items.duplicated("key").to_numpy()
    if not same_key.any():
        domain.counts["duplicate_items"] = domain.counts["conflicting_items"] = 0
        return items
    identical = items.astype(str).duplicated().to_numpy() & same_key
    conflicting = np.flatnonzero(same_key & ~identical)
    domain.counts["duplicate_items"] = int(identical.sum())
    domain.counts["conflicting_items"] = len(conflicting)
    if len(conflicting):
        second = int(conflicting[0])
        key = items["key"].iloc[second]
        first = int(np.flatnonzero((items["key"] == key).to_numpy())[0])
        domain.warnings.append(
            f"{len(conflicting)} item rows contradict an earlier row with the same id, which is "
            f"kept; the first is {shown(key)}: {source.place(second)} against {source.place(first)}"
        )
    return items[~same_key]


def _clean_texts(items: pd.DataFrame, domain: raw.RawDomain) -> None:
    for column in TEXT_COLUMNS:
        items[column], counts = cleaning.clean_all(items[column])
        if column == "title":
            for kind in cleaning.KINDS:
                domain.counts[f"titles_with_{kind}"] = counts[kind]
        plural = "categories" if column == "categories" else f"{column}s"
        domain.counts[f"{plural}_cleaned"] = counts["cleaned"]
    domain.counts["titles_empty"] = int((items["title"] == "").sum())
