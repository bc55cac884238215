"""Histories as text: on a command line, or one a line of a file."""

import csv
import json
from pathlib import Path
from typing import Any

from recalign.errors import UserError, quote, telling_where


def read(path: Path) -> list[list[str]]:
    """The item ids of every line of a file.

    A line is a JSON list of ids, a JSON object with such a list as `history` (as `recalign infer`
    writes them), or ids between commas.

    Raises:
      UserError: the file cannot be read, or a line is none of these; the first such is named.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    if not lines[-1]:
        del lines[-1]
    if not lines:
        raise UserError(f"{path}: it is empty; expected a history a line")
    return [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def split(text: str) -> list[str]:
    """The ids between commas; one that holds a comma stands in double quotes.

    Raises:
      UserError: the quotes are not as in CSV.
    """
    try:
        rows = list(csv.reader([text], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise UserError(f"a history must be ids between commas: {error}") from error
    return [key for row in rows for key in map(str.strip, row) if key]


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
      UserError: it is none, or has an object with a field twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        # Python goes on to tell programmers how it could read numbers of more digits.
        raise UserError(f"not JSON: {str(error).partition(';')[0]}") from error


def check_history(keys: object) -> list[str]:
    """A history out of JSON, which must be a list of ids.

    Raises:
      UserError: it is something else.
    """
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UserError('expected a history as a list of item ids, such as ["a", "b"]')
    return keys


def _parse(line: str, place: str) -> list[str]:
    with telling_where(place):
        keys = _json_history(line) if line.lstrip().startswith(("[", "{")) else split(line)
    if not keys:
        raise UserError(f"{place}: a history needs at least one item")
    return keys


def _json_history(line: str) -> list[str]:
    found = parse_json(line)
    return check_history(found.get("history") if isinstance(found, dict) else found)


def _unique(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these fields; of two of a name one would be lost."""
    found: dict[str, Any] = {}
    for name, value in fields:
        if name in found:
            raise UserError(f"the field {quote(name)} twice")
        found[name] = value
    return found
