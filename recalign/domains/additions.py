"""Items that come to a prepared domain later: what was prepared stays as it is."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from recalign.domains import codes, storage, vectors
from recalign.domains.catalogue import TEXT_COLUMNS
from recalign.domains.digest import digest
from recalign.domains.domain import Domain
from recalign.errors import UserError
from recalign.files import in_bucket

# What runs keep beside a domain, made of its catalogue.
KEPT_BY_RUNS = ("index-*", "tokens", "baselines")
# Made for another catalogue, or of its own accord.
_LEFT_OUT = (*KEPT_BY_RUNS, storage.STATISTICS, "items.parquet", codes.FILE_NAME)


def add_items(domain: Domain, items: pd.DataFrame) -> Domain:
    """The domain with further items, which have the last indices and no event.

    An id that is codes is that of the items of the nearest texts, an id in digits the next number;
    those of all other items stay.

    Args:
      domain: on local disk.
      items: the new ones, as `readers.table.read_items` gives them.

    Raises:
      UserError: an item is there already, or none of its words is; the network has no token for
        its id; or no id is left.
    """
    known = items["key"].isin(set(domain.items["key"]))
    if known.any():
        raise UserError(
            f"item {items['key'][known].iloc[0]!r} is in the catalogue of {domain.name} already; "
            f"{known.sum()} of {len(items)} are"
        )
    table = pd.concat([domain.items, items], ignore_index=True)[domain.items.columns]
    texts = [*TEXT_COLUMNS, "key"]
    table[texts] = table[texts].fillna("")
    grown = dataclasses.replace(domain, items=table)
    if domain.codes is not None:
        return dataclasses.replace(grown, codes=domain.codes.extend(_place(domain, table)))
    options = domain.statistics["options"]
    if options.get("vocab_size") or options.get("item_tokens"):
        raise UserError(
            f"each item of {domain.name} is a token of its own, and a network that was trained has "
            "none for a new item: prepare with --item_ids rkmeans (or pq), whose codes have room"
        )
    if len(str(len(table) - 1)) > len(str(domain.num_items - 1)):
        raise UserError(
            f"the numbers of {domain.name} have room for {10 ** len(str(domain.num_items - 1)):,} "
            f"items, and with the new ones they would be {len(table):,}"
        )
    return grown


def _place(domain: Domain, table: pd.DataFrame) -> np.ndarray:
    """Where new items are, float64[new, d]: the mean of what codes say of the nearest texts."""
    words = vectors.weighted_words(table)
    old, new = words[: domain.num_items], words[domain.num_items :]
    for number, key in enumerate(table["key"].iloc[domain.num_items :]):
        if not (old @ new[number].T).nnz:
            raise UserError(
                f"no word of item {key!r} is in a text of {domain.name}, so nothing tells which "
                "items it is like"
            )
    return codes.mean_of_nearest(new, old, domain.codes.centres())


def write(domain: Domain, folder: Path) -> None:
    """Writes a domain that `add_items` gave; all else is copied from where it was prepared.

    Args:
      domain: whose `path` is that of the domain without the new items.
      folder: gets what a prepared domain has; it must not exist.

    Raises:
      UserError: the domain lies in a bucket.
    """
    if in_bucket(domain.path):
        raise UserError(f"{domain.path}: items are added to domains on local disk; copy it there")
    prepared = Path(str(domain.path))
    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    domain.items.to_parquet(folder / "items.parquet", index=False)
    if domain.codes is not None:
        domain.codes.save(folder)
    found = domain.statistics | {
        "items": domain.num_items,
        "fingerprint": digest(dataclasses.replace(domain, path=folder, keys=domain.user_keys)),
    }
    storage.write_statistics(found, folder)
