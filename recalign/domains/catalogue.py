"""The item table: which columns it keeps, and its clean-ups."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from recalign.domains import cleaning, values
from recalign.domains.raw import RawDomain, read_interactions
from recalign.domains.source import CANDIDATES, Source, list_unused, resolve
from recalign.errors import quote

TEXT_COLUMNS = ("title", "brand", "categories")
COLUMNS = ("key", *TEXT_COLUMNS)
ROLES = ("item", *TEXT_COLUMNS)


def read_domain(
    interactions: Source,
    items: Source | None,
    chosen: Mapping[str, str | None],
    number_columns: Sequence[str] = (),
) -> RawDomain:
    """The domain of a table of interactions and, if there is one, a table of items.

    Args:
      interactions: one row an event.
      items: one row an item.
      chosen: as for `read_items`.
      number_columns: of the items, as for `read_items`.

    Raises:
      UserError: naming file, line or row, and field of what is wrong.
    """
    domain = RawDomain()
    read_interactions(interactions, chosen, domain)
    if items is not None:
        read_items(items, chosen, domain, number_columns)
    return domain


def read_items(
    source: Source,
    chosen: Mapping[str, str | None],
    domain: RawDomain,
    number_columns: Sequence[str] = (),
) -> None:
    """Sets a domain's item table, with its counts, columns and warnings.

    Every column is kept: those of a role under the role's name, the others under their own; but
    those that hold bytes, such as pictures, are left out. Of rows with the same id the first is
    kept: identical ones are counted as `duplicate_items`, different ones as `conflicting_items`
    with a warning that names the first pair of lines.

    Args:
      source: the item table.
      chosen: {role: column}; "catalogue_item" names the item column if it differs from "item".
      domain: gets `items`.
      number_columns: further columns that are meant to hold numbers; what is none there is missing,
        and counted.

    Raises:
      UserError: a column is missing, or an id is empty.
    """
    roles = {role: chosen.get(role) for role in ROLES}
    roles["item"] = chosen.get("catalogue_item") or _same_name(source, domain, chosen)
    columns = resolve(source, ROLES, roles)
    if "title" not in columns:
        domain.warnings.append(
            f"{source.path}: no column of titles ({', '.join(CANDIDATES['title'])}), so all "
            f"are empty; columns there: {', '.join(map(quote, source.frame.columns[:30]))}"
        )
    items = pd.DataFrame({"key": values.read_ids(source, columns["item"])})
    for role in TEXT_COLUMNS:
        items[role] = values.read_texts(source, columns[role]) if role in columns else ""
    extras, ignored = _read_extras(source, list_unused(source, columns), number_columns, domain)
    items = pd.concat([items, pd.DataFrame(extras)], axis=1)
    items = _drop_duplicates(source, items, domain)
    _clean_texts(items, domain)
    domain.items = items.reset_index(drop=True)
    domain.columns["items"] = columns
    domain.columns["items_kept"] = list(extras)
    domain.columns["items_ignored"] = ignored


def _same_name(source: Source, domain: RawDomain, chosen: Mapping[str, str | None]) -> str | None:
    """The name of the interactions' item column, where the item table has it too."""
    name = domain.columns["interactions"]["item"]
    return name if name in source.frame.columns or chosen.get("item") else None


def _read_extras(
    source: Source, names: Sequence[str], number_columns: Sequence[str], domain: RawDomain
) -> tuple[dict[str, pd.Series], list[str]]:
    """The columns without a role, under names of their own, and those that are left out."""
    extras, ignored = {}, []
    for name in names:
        is_number = name in number_columns
        column = (
            values.read_numbers(source, name, lenient=True)
            if is_number
            else values.read_any(source, name)
        )
        if column is None:
            ignored.append(name)
            continue
        kept = name
        while kept in COLUMNS or (kept != name and kept in {*names, *extras}):
            kept += "_"
        extras[kept] = column
        if is_number:
            domain.counts[f"{kept}_missing"] = int(column.isna().sum())
    return extras, ignored


def _drop_duplicates(source: Source, items: pd.DataFrame, domain: RawDomain) -> pd.DataFrame:
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
            f"kept; the first is {quote(key)}: {source.place(second)} against {source.place(first)}"
        )
    return items[~same_key]


def _clean_texts(items: pd.DataFrame, domain: RawDomain) -> None:
    for column in TEXT_COLUMNS:
        items[column], counts = cleaning.clean_all(items[column])
        if column == "title":
            for kind in cleaning.KINDS:
                domain.counts[f"titles_with_{kind}"] = counts[kind]
        plural = "categories" if column == "categories" else f"{column}s"
        domain.counts[f"{plural}_cleaned"] = counts["cleaned"]
    domain.counts["titles_empty"] = int((items["title"] == "").sum())
