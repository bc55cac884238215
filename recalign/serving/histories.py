"""Histories as text: on a command line, or one a line of a file."""

import csv
import json
from pathlib import Path

from recalign.errors import UserError


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


def check_history(keys: object) -> list[str]:
    """A history out of JSON, which must be a list of ids.

    Raises:
      UserError: it is something else.
    """
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UserError('expected a history as a list of item ids, such as ["a", "b"]')
    return keys


def _parse(line: str, place: str) -> list[str]:
    try:
        keys = _json_history(line) if line.lstrip().startswith(("[", "{")) else split(line)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    if not keys:
        raise UserError(f"{place}: a history needs at least one item")
    return keys


def _json_history(line: str) -> list[str]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}") from error
    return check_history(found.get("history") if isinstance(found, dict) else found)
