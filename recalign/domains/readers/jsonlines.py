"""Reading a JSON object a line, or a Python literal a line, into columns of checked values."""

import ast
import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recalign.domains.raw import Source
from recalign.domains.readers import textfiles
from recalign.errors import UserError, shown

# Whatever a line may hold, reading it takes bounded memory.
_LONGEST_LINE = 1 << 24  # bytes
_BLOCK = 1 << 16  # rows
_LINE = "\0line"  # the column of line numbers, beside those of the fields


@dataclasses.dataclass(frozen=True)
class Field:
    """A column: the type of its values, and where an object has them.

    Attributes:
      dtype: "str", or "float64", which becomes int64 where all values are whole.
      of: gives the value of an object, None where it is missing; raises a ValueError that says what
        is wrong with it.
    """

    dtype: str
    of: Callable[[Mapping[str, Any]], Any]


def read(
    path: Path,
    fields: Mapping[str, Field],
    literals: bool = False,
    keep: Callable[[tuple], bool] = lambda row: True,
) -> Source:
    """Reads a table.

    Args:
      path: a file of lines, gzip or not, UTF-8; blank lines are skipped.
      fields: {column: field}.
      literals: whether a line that is no JSON may be a Python literal, which is never evaluated.
      keep: whether a row, the values of the fields in their order, is wanted.

    Returns:
      A source with one row a line that is kept.

    Raises:
      UserError: naming file and line of what is wrong; or no line is kept.
    """
    blocks, block = [], _Block(fields)
    line = 0
    for line, record in _records(path, literals):
        try:
            row = tuple(field.of(record) for field in fields.values())
        except ValueError as error:
            raise UserError(f"{path}, line {line}: {error}") from error
        if keep(row):
            block.append(line, row)
        if len(block) == _BLOCK:
            blocks.append(block.frame())
            block = _Block(fields)
    if not blocks and not len(block):
        raise UserError(
            f"{path}: the file tells of none of the items that the interactions name"
            if line
            else f"{path}: the file is empty"
        )
    frame = pd.concat([*blocks, block.frame()] if len(block) else blocks, ignore_index=True)
    lines = frame.pop(_LINE).to_numpy()
    return Source(path, frame, lambda row: int(lines[row]))


class _Block:
    """Rows on their way into a table: as Python objects they take several times the memory."""

    def __init__(self, fields: Mapping[str, Field]):
        self._fields, self._lines, self._rows = fields, [], []

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, line: int, row: tuple) -> None:
        self._lines.append(line)
        self._rows.append(row)

    def frame(self) -> pd.DataFrame:
        """The rows, and a column of their lines."""
        columns = {_LINE: np.array(self._lines, np.int64)}
        for (name, field), values in zip(
            self._fields.items(), zip(*self._rows, strict=True), strict=True
        ):
            whole = field.dtype != "str" and all(isinstance(value, int) for value in values)
            columns[name] = pd.Series(values, dtype="int64" if whole else field.dtype)
        return pd.DataFrame(columns)


def _records(path: Path, literals: bool) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The number, from 1, and the object of every line that is not blank."""
    with textfiles.unzipped(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python has views on the escapes in a literal
        number = 0
        while line := file.readline(_LONGEST_LINE + 1):
            number += 1
            if len(line) > _LONGEST_LINE:
                raise UserError(f"{path}, line {number} is longer than {_LONGEST_LINE >> 20} MiB")
            if line.isspace():
                continue
            try:
                yield number, _parse(line.removeprefix(b"\xef\xbb\xbf"), literals)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: {error}") from error


def _parse(line: bytes, literals: bool) -> Mapping[str, Any]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte 0x{line[error.start]:02x} is not UTF-8") from error
    kind = "JSON"
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        if not literals:
            raise ValueError(_not(text, kind)) from None
        kind = "a Python literal"
        try:
            record = _literal(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise ValueError(_not(text, f"JSON or {kind}")) from None
    if not isinstance(record, dict):
        raise ValueError(f"{kind}, but not an object with fields: {shown(text.strip())}")
    return record


def _literal(text: str) -> Any:
    return ast.literal_eval(text.strip())


def _not(text: str, kind: str) -> str:
    cut = "" if text.endswith("\n") else " (is the file cut off?)"
    return f"not {kind}{cut}: {shown(text.strip())}"


def text(*names: str, required: bool = False, joint: str = " ") -> Field:
    """A field that holds a text, or a list of texts that are joined.

    Args:
      names: the field's names, the first that is there counts.
      required: whether it is an error if none is there, or its text is blank.
      joint: stands between the elements of a list; of lists in a list the first counts.
    """

    def value_of(record: Mapping[str, Any]) -> str | None:
        name, value = _first(record, names)
        if isinstance(value, list | tuple) and not required:
            value = _join(name, value, joint)
        if value is None or value == "":
            if required:
                raise ValueError(f"there is no {' or '.join(map(repr, names))}")
            return None
        if not isinstance(value, str):
            raise _wrong(name, value, "a text")
        return _encodable(name, value, required)

    return Field("str", value_of)


def number(*names: str) -> Field:
    """A field that holds a finite number, or nothing."""

    def value_of(record: Mapping[str, Any]) -> float | None:
        name, value = _first(record, names)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not -(2**63) <= value < 2**63 or not math.isfinite(value):
            raise _wrong(name, value, "a number")
        return value

    return Field("float64", value_of)


def _first(record: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Any]:
    for name in names:
        if record.get(name) is not None:
            return name, record[name]
    return names[0], None


def _join(name: str, values: Sequence[Any], joint: str) -> str | None:
    """The texts of a list; of lists in a list, those of the first."""
    if values and isinstance(values[0], list | tuple):
        values = values[0]
    if not all(isinstance(value, str) for value in values):
        raise _wrong(name, values, "a text or a list of texts")
    return joint.join(values)


def _encodable(name: str, value: str, required: bool) -> str:
    """The text without lone halves of surrogate pairs, which no file could hold."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        if required:
            raise _wrong(name, value, "valid Unicode") from None
        return value.encode(errors="replace").decode()
    return value


def _wrong(name: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"{name!r} is {shown(value)}, not {wanted}")
