"""Reading a JSON object a line, or a Python literal a line, into columns of checked values."""

import ast
import itertools
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recalign.domains import values
from recalign.domains.readers import opening
from recalign.domains.source import EXACT, Source, convert_arrow, stack
from recalign.errors import UserError, quote

# Whatever a line may hold, reading it takes bounded memory.
_LONGEST_LINE = 1 << 24  # bytes
_BLOCK = 1 << 16  # rows
_PART, _LINE = "\0part", "\0line"  # columns of where a row is, beside those of the fields
# What metadata hold that were written by way of pandas or JavaScript.
_SPELLED = dict.fromkeys(["nan", "NaN", "inf", "Infinity", "null", "undefined"])
_SPELLED |= {"true": True, "false": False}
# Gives the value of a column for an object, None where it is missing; raises a ValueError that says
# what is wrong with it.
Field = Callable[[Mapping[str, Any]], Any]


def read(
    path: Path,
    fields: Mapping[str, Field],
    literals: bool = False,
    keep: Callable[[tuple], bool] = lambda row: True,
) -> Source:
    """Reads a table.

    Args:
      path: a file of lines, perhaps in parts (`opening.find_parts`); blank lines are skipped.
      fields: {column: field}.
      literals: whether a line that is no JSON may be a Python literal, which is never evaluated.
      keep: whether a row, the values of the fields in their order, is wanted.

    Returns:
      A source with one row a line that is kept.

    Raises:
      UserError: naming file and line of what is wrong; or no line is kept.
    """
    parts = opening.find_parts(path)
    blocks, block = [], _Block(fields)
    record, doubled = None, {}
    for index, part in enumerate(parts):
        for line, record in _records(part, literals):
            try:
                row = tuple(field(record) for field in fields.values())
            except ValueError as error:
                raise UserError(f"{part}, line {line}: {error}") from error
            if keep(row):
                block.append((index, line), row)
                _note_doubled(record, f"{part}, line {line}", doubled)
            if len(block) == _BLOCK:
                blocks.append(block.frame())
                block = _Block(fields)
    if not blocks and not len(block):
        raise UserError(
            f"{path}: the file is empty"
            if record is None
            else f"{path}: the file tells of none of the items that the interactions name"
        )
    frame = stack([*blocks, block.frame()] if len(block) else blocks)
    files, lines = (frame.pop(name).to_numpy() for name in (_PART, _LINE))
    return Source(path, frame, lambda row: f"{parts[files[row]]}, line {lines[row]}", doubled)


def read_table(path: Path) -> Source:
    """Reads one file of JSON objects, whose fields are the columns.

    They stand one a line (or a Python literal a line, which is never evaluated) or in one list; a
    single object whose fields are all objects is a table by columns, as pandas writes it.

    Raises:
      UserError: naming file and line of what is wrong.
    """
    with opening.open_content(path) as file:
        is_list = file.peek(_LONGEST_LINE).lstrip()[:1] == b"["
    records, unit = (_elements(path), "object") if is_list else (_records(path, True), "line")
    frames, numbers, doubled = [], [], {}
    while block := [*itertools.islice(records, _BLOCK)]:
        if len(block) == 1 and not numbers:
            block = _transpose(*block[0])
        names = dict.fromkeys(name for _, record in block for name in record)
        columns = {name: _as_column([record.get(name) for _, record in block]) for name in names}
        frames.append(pd.DataFrame({_write_name(name): column for name, column in columns.items()}))
        numbers.extend(number for number, _ in block)
        for number, record in block:
            _note_doubled(record, f"{path}, {unit} {number}", doubled)
    if not frames:
        raise UserError(f"{path}: the file is empty")
    return Source.of(path, stack(frames), lambda row: f"{path}, {unit} {numbers[row]}", doubled)


def _write_name(name: str) -> str:
    """A field's name, of which lone halves of surrogate pairs are written out."""
    return name.encode(errors="backslashreplace").decode()


def _transpose(number: int, record: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any]]]:
    """The rows of an object that holds columns, lists or by the rows' names; else itself."""
    columns = record.values()
    if all(isinstance(c, list) and len(c) > 1 for c in columns) and len({*map(len, columns)}) == 1:
        return [(number, dict(zip(record, row, strict=True))) for row in zip(*columns, strict=True)]
    if not columns or any(not isinstance(c, dict) or len(c) < 2 for c in columns):
        return [(number, record)]
    rows = dict.fromkeys(row for column in columns for row in column)
    return [(number, {name: column.get(row) for name, column in record.items()}) for row in rows]


def _elements(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The number, from 1, and the object of every element of a JSON list."""
    try:
        elements = json.loads(opening.read_content(path), object_pairs_hook=_build)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: begins like a JSON list, but is none: {error}") from error
    for number, element in enumerate(elements, start=1):
        if not isinstance(element, dict):
            raise UserError(f"{path}, object {number}: not an object with fields: {quote(element)}")
        yield number, element


def _as_column(column: list) -> pd.Series:
    """Values of one type as a column of it, others as they are."""
    if not any(isinstance(value, list | dict) for value in column):
        try:
            return convert_arrow(pa.table({"": pa.array(column, from_pandas=True)}))[""]
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            pass
    return pd.Series(column, dtype=object)


class _Block:
    """Rows on their way into a table: as Python objects they take several times the memory."""

    def __init__(self, fields: Mapping[str, Field]):
        self._fields, self._places, self._rows = fields, [], []

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, place: tuple[int, int], row: tuple) -> None:
        self._places.append(place)
        self._rows.append(row)

    def frame(self) -> pd.DataFrame:
        """The rows, and columns of where they are."""
        columns = dict(zip((_PART, _LINE), np.array(self._places, np.int64).T, strict=True))
        for name, column in zip(self._fields, zip(*self._rows, strict=True), strict=True):
            columns[name] = _as_column(list(column))
        return pd.DataFrame(columns)


def _records(path: Path, literals: bool) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The number, from 1, and the object of every line that is not blank."""
    with opening.open_content(path) as file, warnings.catch_warnings():
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


class _Doubled(dict):
    """An object that has some fields more than once; the last of each counts."""

    names: frozenset[str] = frozenset()


def _build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        record, names = _Doubled(record), [name for name, _ in pairs]
        record.names = frozenset(name for name in record if names.count(name) > 1)
    return record


_DECODER = json.JSONDecoder(object_pairs_hook=_build)


def _note_doubled(record: Mapping[str, Any], where: str, doubled: dict[str, str]) -> None:
    if isinstance(record, _Doubled):
        for name in record.names:
            doubled.setdefault(name, where)


def _parse(line: bytes, literals: bool) -> Mapping[str, Any]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte 0x{line[error.start]:02x} is not UTF-8") from error
    kind = "JSON"
    try:
        record = _DECODER.decode(text)
    except (ValueError, RecursionError):
        if not literals:
            raise ValueError(_not(text, kind)) from None
        kind = "a Python literal"
        try:
            record = _literal(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise ValueError(_not(text, f"JSON or {kind}")) from None
    if not isinstance(record, dict):
        raise ValueError(f"{kind}, but not an object with fields: {quote(text.strip())}")
    return record


def _literal(text: str) -> Any:
    tree = _Names().visit(ast.parse(text.strip(), mode="eval"))
    if not isinstance(tree.body, ast.Dict):
        return ast.literal_eval(tree)
    fields = zip(tree.body.keys, tree.body.values, strict=True)
    return _build([(ast.literal_eval(name), ast.literal_eval(value)) for name, value in fields])


class _Names(ast.NodeTransformer):
    """Puts values for the names that stand for one; others `literal_eval` refuses."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(_SPELLED[node.id]) if node.id in _SPELLED else node


def _not(text: str, kind: str) -> str:
    cut = "" if text.endswith("\n") else " (is the file cut off?)"
    return f"not {kind}{cut}: {quote(text.strip())}"


def text(*names: str, required: bool = False, joint: str = " ") -> Field:
    """A field that holds a text, or a list of texts that are joined.

    Args:
      names: the field's names, the first that is there counts.
      required: whether it is an error if none is there, or its text is blank, or is a list.
      joint: stands between the elements of a list; of lists in a list the first counts.
    """

    def value_of(record: Mapping[str, Any]) -> str | None:
        name, value = _first(record, names)
        if required and (value is None or value == ""):
            raise ValueError(f"there is no {' or '.join(map(repr, names))}")
        if required and not isinstance(value, str | int | float):
            raise _wrong(name, value, "a text")
        if required and isinstance(value, float) and abs(value) > 1 << EXACT:
            raise _wrong(name, value, "a number that has all its digits")
        if required and isinstance(value, str) and value != values.mend(value):
            raise _wrong(name, value, "valid Unicode")
        if isinstance(value, list | tuple):
            nested = value and isinstance(value[0], list | tuple)
            texts = map(values.write_any, value[0] if nested else value)
            value = joint.join(text for text in texts if text)
        return None if value is None else values.write_any(value)

    return value_of


def anything(*names: str) -> Field:
    """A field as it is, the first of the names that is there."""
    return lambda record: _first(record, names)[1]


def _first(record: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Any]:
    """The first field that is there, NaN being none."""
    for name in names:
        value = record.get(name)
        if value is not None and value == value:
            return name, value
    return names[0], None


def _wrong(name: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"{name!r} is {quote(value)}, not {wanted}")
