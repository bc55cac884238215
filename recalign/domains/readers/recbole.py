"""RecBole's atomic files: `.inter` and `.item`.

Format: https://recbole.io/docs/user_guide/data/atomic_files.html. Tab-separated, UTF-8; the header
names each column `name:type` with the type token, token_seq, float or float_seq. A field is taken
literally, quotes included. Sequences stay the text they are.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from recalign.domains import catalogue
from recalign.domains.raw import RawDomain
from recalign.domains.readers import delimited, opening
from recalign.domains.source import Source, concatenate
from recalign.errors import UserError, quote

TYPES = ("token", "token_seq", "float", "float_seq")


def read(
    inter: Path, item: Path | None = None, columns: Mapping[str, str | None] | None = None
) -> RawDomain:
    """Reads a pair of atomic files, each perhaps in parts (`opening.find_parts`).

    Args:
      inter: the `.inter` file.
      item: the `.item` file, if there is one.
      columns: {role: column} for the roles of `source.CANDIDATES`, and "catalogue_item" for the
        item column of the `.item` file. A role that is absent or None takes the first candidate
        found.

    Raises:
      UserError: naming file, line and field of what is wrong.
    """
    interactions, _ = _read_atomic(inter, ".inter")
    items, floats = (None, []) if item is None else _read_atomic(item, ".item")
    return catalogue.read_domain(interactions, items, columns or {}, floats)


def _read_atomic(path: Path, suffix: str) -> tuple[Source, list[str]]:
    """Atomic files with plain column names, and those of the columns that are floats."""
    parts = opening.find_parts(path, [suffix])
    tables = [parse_atomic(part, opening.read_content(part)) for part in parts]
    return concatenate(path, [table for table, _ in tables]), tables[0][1]


def parse_atomic(path: Path | str, data: bytes) -> tuple[Source, list[str]]:
    """An atomic file with plain column names, and those of the columns that are floats.

    Raises:
      UserError: naming line and field of what is wrong.
    """
    header = data.lstrip().partition(b"\n")[0].decode(errors="replace").strip()
    if "\t" not in header and re.search("[ ,;|]", header):
        raise UserError(
            f"{path}, line 1: the separator of atomic files is a tab, and there is none in "
            f"{quote(header)}; convert the file, or rename its columns (without the types) and use "
            "`recalign prepare table`, which reads other separators"
        )
    source = delimited.parse(path, data, "\t", quoted=False)
    names, floats = [], []
    for field in source.frame.columns:
        name, _, kind = field.rpartition(":")
        if not name or kind not in TYPES:
            raise UserError(
                f"{path}, line 1: the header field {quote(field)} is not name:type with a type of "
                f"{', '.join(TYPES)}"
            )
        names.append(name)
        if kind == "float":
            floats.append(name)
    doubled = {name.rpartition(":")[0]: where for name, where in source.doubled.items()}
    return Source.of(path, source.frame.set_axis(names, axis=1), source.place, doubled), floats
