"""Any table with named columns: CSV, TSV or Parquet, CSV and TSV also as gzip."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recalign.domains import catalogue, raw
from recalign.domains.readers import textfiles
from recalign.errors import UserError

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_PARQUET = (".parquet", ".pq")


def read(
    interactions: Path, items: Path | None = None, columns: Mapping[str, str | None] | None = None
) -> raw.RawDomain:
    """Reads a table of interactions and, if there is one, a table of items.

    Args:
      interactions: one row an event.
      items: one row an item.
      columns: {role: column} for the roles of `raw.CANDIDATES`, and "catalogue_item" for the item
        column of `items`. A role that is absent or None takes the first candidate found.

    Raises:
      UserError: naming file, line or row, and field of what is wrong.
    """
    columns = dict(columns or {})
    domain = raw.RawDomain(pd.DataFrame(), None)
    raw.read_interactions(_read(interactions), columns, domain)
    if items is not None:
        catalogue.read_items(_read(items), columns, domain)
    return domain


def _read(path: Path) -> raw.Source:
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    kind = (
        suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    )
    if kind in _SEPARATORS:
        return textfiles.read_delimited(path, _SEPARATORS[kind], quoted=True)
    if kind in _PARQUET and suffixes[-1] != ".gz":
        return _read_parquet(path)
    raise UserError(
        f"{path}: the name does not tell the format; known are .csv, .tsv, .tab (each also with "
        ".gz) and .parquet"
    )


def _read_parquet(path: Path) -> raw.Source:
    try:
        # What pandas may have noted of an index is no concern of ours.
        frame = pq.read_table(path).to_pandas(ignore_metadata=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: cannot be read: No such file or directory") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable Parquet file: {str(error)[:300]}") from error
    if frame.empty:
        raise UserError(f"{path}: the table has no rows")
    return raw.Source(Path(path), frame.reset_index(drop=True))
