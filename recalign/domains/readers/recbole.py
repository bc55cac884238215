"""RecBole's atomic files: `.inter` and `.item`.

Format: https://recbole.io/docs/user_guide/data/atomic_files.html. Tab-separated, UTF-8; the header
names each column `name:type` with the type token, token_seq, float or float_seq. A field is taken
literally, quotes included. Sequences stay the text they are.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from recalign.domains import catalogue, raw
from recalign.domains.readers import textfiles
from recalign.errors import UserError, shown

TYPES = ("token", "token_seq", "float", "float_seq")


def read(
    inter: Path, item: Path | None = None, columns: Mapping[str, str | None] | None = None
) -> raw.RawDomain:
    """Reads a pair of atomic files.

    Args:
      inter: the `.inter` file.
      item: the `.item` file, if there is one.
      columns: {role: column} for the roles of `raw.CANDIDATES`, and "catalogue_item" for the item
        column of the `.item` file. A role that is absent or None takes the first candidate found.

    Raises:
      UserError: naming file, line and field of what is wrong.
    """
    files = [(path, textfiles.read_bytes(path)) for path in (inter, item) if path is not None]
    return parse(*files, columns=columns)


def parse(
    inter: tuple[Path | str, bytes],
    item: tuple[Path | str, bytes] | None = None,
    columns: Mapping[str, str | None] | None = None,
) -> raw.RawDomain:
    """As `read`, of the names and contents of the files."""
    columns = dict(columns or {})
    domain = raw.RawDomain(pd.DataFrame(), None)
    raw.read_interactions(_parse_atomic(*inter)[0], columns, domain)
    if item is not None:
        table, types = _parse_atomic(*item)
        floats = [name for name, kind in types.items() if kind == "float"]
        catalogue.read_items(table, columns, domain, number_columns=floats)
    return domain


def _parse_atomic(path: Path | str, data: bytes) -> tuple[raw.Source, dict[str, str]]:
    """An atomic file with plain column names, and each column's type."""
    source = textfiles.parse_delimited(path, data, "\t", quoted=False)
    types = {}
    for field in source.frame.columns:
        name, _, kind = field.strip().rpartition(":")
        if not name or kind not in TYPES:
            raise UserError(
                f"{path}, line 1: the header field {shown(field)} is not name:type with a type of "
                f"{', '.join(TYPES)}"
            )
        if name in types:
            raise UserError(f"{path}, line 1: the header names {shown(name)} more than once")
        types[name] = kind
    frame = source.frame.set_axis(list(types), axis=1)
    return raw.Source(source.path, frame, source.line), types
