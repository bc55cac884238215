"""The values of a source's columns: ids, texts, numbers and times, of whatever type they come.

Every reader's columns come through here, so that the same value means the same in all formats: what
is missing, which ids are one, what is a date.
"""

import json
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recalign.domains.cleaning import trim
from recalign.domains.source import EXACT, Source
from recalign.errors import UserError, quote

# How tables write a number or a time that is not there, in lower case.
_NO_NUMBER = frozenset(
    ["", "nan", "-nan", "na", "n/a", "#n/a", "<na>", "nat", "null", "none", "nil", "\\n", "-", "--",
     "\u2013", "\u2014", "?", "0000-00-00", "0000-00-00 00:00:00"]
)  # fmt: skip
# Of a text, what programs alone write: a film may be called "None", a country "NA".
NO_TEXT = frozenset(["nan", "NaN", "NaT", "<NA>", "NULL", "\\N"])
# Whole numbers as floats are written: "3.0", "1e+05", and "1.2E7" by Java.
_WHOLE = r"^([+-]?\d+)\.0*$"
_POWER = r"^[+-]?(?:\d+(?:\.\d+)?[eE]\+\d{1,2}|\d\.\d+E\d{1,2})$"
# As spreadsheets write a long number, by its first digits: "1.23457E+12".
_SHORTENED = r"^[+-]?\d(?:\.(\d+))?E\+(\d+)$"
# Numbers with marks between thousands: "1,234,567.5" and "1.234.567,5".
_GROUPED = r"[+-]?\d{1,3}(?:,\d{3})*(?:\.\d+)?"
_DECIMAL_COMMA = r"[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+)(?:,\d+)?"
# Dates that can be read in one way only; "05/06/2014" can not.
_DATES = (
    "ISO8601",
    "%a, %d %b %Y %H:%M:%S%z",  # of mails
    "%a %b %d %H:%M:%S %z %Y",
    "%a %b %d %H:%M:%S %Y",
    "%Y-%m-%d %I:%M:%S %p",
    "%m %d, %Y",  # of Amazon's reviewTime
    "%d %b %Y",
    "%d-%b-%Y",
    "%b %d, %Y",
    "%B %d, %Y",
)
_BLOCK = 1 << 18  # rows
UNITS = ("s", "us", "ns")


def read_ids(source: Source, column: str) -> pd.Series:
    """A column of ids as str, as `cleaning.trim` has them.

    Whole numbers are written without a decimal point, as which missing values or another program
    may have left them, so that the ids of two tables agree.

    Raises:
      UserError: an id is empty, or a list, or has lost digits.
    """
    _refuse_rounded(source, column)
    values = _write(source, column, _write_one).fillna("").str.strip()
    foreign = values.str.contains(r"[^\x20-\x7e]", regex=True).to_numpy(bool)
    values[foreign] = values[foreign].map(trim)
    _refuse_shortened(source, column, values)
    values = _write_whole(source, column, values)
    empty = np.flatnonzero((values == "").to_numpy())
    if len(empty):
        raise UserError(f"{source.place(empty[0])}: {column!r} is empty; every row needs an id")
    return values.reset_index(drop=True)


def read_repeated_ids(source: Source, column: str) -> pd.Categorical:
    """As `read_ids`, of a column that has each id many times: every id is looked at once."""
    given = source.frame[column]
    if given.dtype == object:  # where 1 and True are equal, and not the same id
        _refuse_rounded(source, column)
        given = _write(source, column, _write_one)
    codes, distinct = pd.factorize(given, use_na_sentinel=False)

    def place(row: int) -> str:
        return source.place(int(np.argmax(codes == row)))

    ids = read_ids(Source(source.path, pd.DataFrame({column: distinct}), place), column)
    same, keys = pd.factorize(ids)
    return pd.Categorical.from_codes(same.astype(np.int32)[codes], keys)


def read_texts(source: Source, column: str) -> pd.Series:
    """A column as str, "" where missing; the elements of a list are joined by ", ".

    Raises:
      UserError: a value is no text but bytes.
    """
    values = _write(source, column, write_any).fillna("")
    return values.mask(values.isin(NO_TEXT), "").astype(object).reset_index(drop=True)


def read_any(source: Source, column: str) -> pd.Series | None:
    """A column that plays no role: numbers stay numbers, all else is text, and bytes are left out.

    Returns:
      The column; None where it holds bytes, such as pictures.
    """
    values = source.frame[column].reset_index(drop=True)
    if pd.api.types.is_numeric_dtype(values):
        return values
    if values.dtype == object:
        if {type(value) for value in values.dropna()} == {Decimal}:
            return read_numbers(source, column)
        if any(map(_holds_bytes, values)):
            return None
    return read_texts(source, column)


def read_numbers(source: Source, column: str, lenient: bool = False) -> pd.Series:
    """A column of numbers as Int64 (where all are whole) or Float64, <NA> where missing.

    Raises:
      UserError: a value that is neither a finite number nor missing, unless `lenient`: then it is
        taken to be missing.
    """
    values = source.frame[column].reset_index(drop=True)
    if (whole := _parse_whole(values)) is not None:
        return whole
    if pd.api.types.is_numeric_dtype(values):
        given = (values.astype("Int64") if pd.api.types.is_bool_dtype(values) else values).dropna()
        parsed = given
    else:
        given = _drop_missing(source, column)
        parsed = _parse(given)
    bad = ~np.isfinite(parsed.to_numpy(np.float64, na_value=np.nan))
    if bad.any() and not lenient:
        row = given.index[int(np.argmax(bad))]
        value = given[row].item() if isinstance(given[row], np.generic) else given[row]
        commas = " that can be read in one way only" if "," in str(value) else ""
        raise UserError(f"{source.place(row)}: {column!r} is {quote(value)}, not a number{commas}")
    parsed = parsed[~bad]
    whole = pd.api.types.is_integer_dtype(parsed) and not (parsed > np.iinfo(np.int64).max).any()
    return parsed.astype("Int64" if whole else "Float64").reindex(values.index)


def read_times(source: Source, column: str) -> pd.Series:
    """A column of times: numbers as they are, dates as seconds since 1970 (UTC).

    Dates with parts of a microsecond are whole nanoseconds instead, which seconds cannot hold.

    Raises:
      UserError: a value that is neither, or numbers and dates mixed.
    """
    moments = read_moments(source, column)
    return count_time(moments, find_unit(moments)) if holds_dates(moments) else moments


def read_moments(source: Source, column: str) -> pd.Series:
    """A column of times as `read_times` has it, but with dates as such (UTC).

    Raises:
      UserError: as for `read_times`.
    """
    values = source.frame[column].reset_index(drop=True)
    if (whole := _parse_whole(values)) is not None:
        return whole
    if holds_dates(values):
        _refuse_far(source, column, values.dropna())
        return pd.to_datetime(values, utc=True)
    if pd.api.types.is_numeric_dtype(values):
        return read_numbers(source, column)
    given = _drop_missing(source, column)
    if given.empty or _parse(given.iloc[:1]).notna().all():
        _refuse_shortened(source, column, given)
        return read_numbers(source, column)
    parsed = _parse_dates(given)
    if parsed.isna().any():
        row = parsed.index[int(np.argmax(parsed.isna().to_numpy()))]
        wanted = "an ISO 8601 date (such as 2014-07-23 or 2014-07-23T10:00:00Z)"
        first = row == given.index[0]
        raise UserError(
            f"{source.place(row)}: {column!r} is {quote(given[row])}, "
            + (f"neither a number nor {wanted}" if first else f"not {wanted} as before it")
        )
    return parsed.reindex(values.index)


def _refuse_far(source: Source, column: str, moments: pd.Series) -> None:
    """Raises a UserError for a date that microseconds since 1970 cannot hold."""
    counts, unit = moments.astype("int64"), moments.dt.unit
    far = counts.abs() > 2**63 // {"s": 10**6, "ms": 10**3}.get(unit, 1)
    if far.any():
        row = far.idxmax()
        raise UserError(
            f"{source.place(row)}: {column!r} is {counts[row]} {unit} since 1970, no date; does "
            "the column count another unit?"
        )


def holds_dates(times: pd.Series) -> bool:
    """Whether times are dates, and not yet counted in a unit."""
    return pd.api.types.is_datetime64_any_dtype(times)


def find_unit(moments: pd.Series) -> str:
    """The coarsest of `UNITS` in which each of some dates is a whole number."""
    given = moments.dropna()
    if given.dt.unit == "ns" and given.astype("int64").mod(1000).any():
        return "ns"
    return "us" if given.dt.as_unit("us").astype("int64").mod(1_000_000).any() else "s"


def count_time(moments: pd.Series, unit: str) -> pd.Series:
    """Dates, all of them whole in one of `UNITS`, as numbers; <NA> where one is missing.

    Int64 seconds of "s", so that ties are exact, Float64 seconds of "us", Int64 nanoseconds of
    "ns".
    """
    given = moments.dropna()
    if unit == "ns":
        return given.dt.as_unit("ns").astype("int64").astype("Int64").reindex(moments.index)
    count = given.dt.as_unit("us").astype("int64").astype("Int64")
    seconds = count // 1_000_000 if unit == "s" else (count / 1e6).astype("Float64")
    return seconds.reindex(moments.index)


def _write(source: Source, column: str, write: Callable[[object], str | None]) -> pd.Series:
    """A column as "string", <NA> where missing; `write` gives the text of a Python object."""
    values = source.frame[column].reset_index(drop=True)
    if pd.api.types.is_float_dtype(values):
        given = values.dropna()
        if ((given % 1 == 0) & (given.abs() < 2**63)).all():
            values = values.astype("Int64")
    elif values.dtype == object:
        texts = []
        for row, value in enumerate(values):
            try:
                texts.append(write(value))
            except ValueError as error:
                raise UserError(f"{source.place(row)}: {column!r} is {error}") from error
        values = pd.Series(texts, dtype="string")
    return values.astype("string")


def _write_one(value: object) -> str | None:
    """A scalar as text; a ValueError says what else it is."""
    if isinstance(value, str):
        if mend(value) != value:
            raise ValueError(f"{quote(value)}, not valid Unicode")
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError("bytes, not text") from None
    if isinstance(value, list | tuple | dict | set | np.ndarray):
        value = value.tolist() if isinstance(value, np.ndarray) else value
        raise ValueError(f"{quote(value)}, not one value")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if pd.isna(value) else str(value)


def write_any(value: object) -> str | None:
    """As `_write_one`, and lists too: their elements, those of lists in them too, joined."""
    if isinstance(value, str):
        return mend(value)
    if isinstance(value, dict):
        return mend(json.dumps(value, ensure_ascii=False, default=str))
    if isinstance(value, list | tuple | set | np.ndarray):
        return ", ".join(text for text in map(write_any, value) if text)
    return _write_one(value)


def mend(text: str) -> str:
    """A text without lone halves of surrogate pairs, which no file could hold."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _holds_bytes(value: object) -> bool:
    if isinstance(value, list | tuple | np.ndarray):
        return any(map(_holds_bytes, value))
    if isinstance(value, dict):
        return any(map(_holds_bytes, value.values()))
    return isinstance(value, bytes)


def _refuse_rounded(source: Source, column: str) -> None:
    """Raises a UserError for floats so large that different ids may have become one of them."""
    values = source.frame[column].reset_index(drop=True)
    if values.dtype == object:  # of several types
        values = values[[isinstance(value, float) for value in values]].astype(np.float64)
    if not pd.api.types.is_float_dtype(values):
        return
    kind = getattr(values.dtype, "numpy_dtype", values.dtype)
    exact = np.finfo(kind).nmant + 1
    if (large := (values.abs() > 2.0**exact).to_numpy(bool, na_value=False)).any():
        row = values.index[int(large.argmax())]
        raise _rounded(source, column, row, f"{values[row]:.0f}", f"{kind}", exact)


def _rounded(
    source: Source, column: str, row: int, number: str, kind: str, exact: int
) -> UserError:
    return UserError(
        f"{source.place(row)}: {column!r} is {number}, a {kind}, exact only to 2**{exact}: write "
        "ids as integers or texts"
    )


def _refuse_shortened(source: Source, column: str, texts: pd.Series) -> None:
    """Raises a UserError for a number of which the last digits are lost."""
    long = texts[texts.str.contains("E+", regex=False).to_numpy(bool)]
    digits = long.str.extract(_SHORTENED)
    lost = digits[0].fillna("").str.len() < pd.to_numeric(digits[1])
    if lost.any():
        row = lost.index[int(lost.argmax())]
        raise UserError(
            f"{source.place(row)}: {column!r} is {quote(long[row])}, a number of which a "
            "spreadsheet kept the first digits: format the column as text and export it again"
        )


def _write_whole(source: Source, column: str, texts: pd.Series) -> pd.Series:
    texts = texts.str.replace(_WHOLE, r"\1", regex=True)
    powers = texts[texts.str.contains(_POWER, regex=True)]
    numbers = {power: Decimal(power) for power in powers.unique()}
    if large := next((power for power, n in numbers.items() if abs(n) > 1 << EXACT), None):
        row = powers.index[int((powers == large).argmax())]
        raise _rounded(source, column, row, large, "float64", EXACT)
    whole = {power: f"{n:.0f}" for power, n in numbers.items() if n.to_integral_value() == n}
    return texts.replace(whole) if whole else texts


def _parse_whole(values: pd.Series) -> pd.Series | None:
    """Texts as Int64 where all are written as plain whole numbers, as most are; None else."""
    if values.dtype == object or not pd.api.types.is_string_dtype(values):
        return None
    texts = pa.chunked_array(pa.array(values.array, pa.large_string()))
    plain = pc.match_substring_regex(texts, r"^-?\d{1,18}$")
    if texts.null_count or not pc.all(plain).as_py():
        return None
    return pd.Series(texts.cast(pa.int64()).to_numpy(), values.index, dtype="Int64")


def _drop_missing(source: Source, column: str) -> pd.Series:
    """The texts of a column of numbers or times, stripped, without those that are missing."""
    texts = _write(source, column, _write_one).str.strip()
    return texts[~texts.str.lower().isin(_NO_NUMBER).to_numpy(bool) & texts.notna()]


def _parse(texts: pd.Series) -> pd.Series:
    """Texts as int64 (where all are whole) or float64, nan where one is no number."""
    texts = _settle_commas(texts).str.replace(_WHOLE, r"\1", regex=True)
    texts = texts.replace({"True": "1", "true": "1", "TRUE": "1"})
    texts = texts.replace({"False": "0", "false": "0", "FALSE": "0"})
    # By the block: as Python objects they take ten times the memory of the numbers.
    blocks = [texts.iloc[start : start + _BLOCK] for start in range(0, len(texts), _BLOCK)]
    numbers = [pd.to_numeric(block.astype(object), errors="coerce") for block in blocks]
    whole = all(part.dtype == np.int64 for part in numbers)
    values = [part.to_numpy(np.int64 if whole else np.float64) for part in numbers]
    return pd.Series(np.concatenate([*values, np.zeros(0, np.int64)]), texts.index)


def _settle_commas(texts: pd.Series) -> pd.Series:
    """Texts with a decimal point alone, where what their commas mean can be told from all of them.

    It can not of "1,234", and "1,5" beside "1.5" is left as it is too.
    """
    if not texts.str.contains(",", regex=False).any():
        return texts
    ways = [
        texts.str.replace(thousands, "", regex=False).str.replace(",", ".", regex=False)
        for pattern, thousands in ((_GROUPED, ","), (_DECIMAL_COMMA, "."))
        if texts.str.fullmatch(pattern).all()
    ]
    return ways[0] if len(ways) == 1 else texts


def _parse_dates(texts: pd.Series) -> pd.Series:
    """Texts as times in UTC, NaT where one is no date."""
    texts = texts.where(texts.str.contains(r"\d", regex=True))  # "now" and "today" are none
    texts = texts.str.replace(r"(:\d\d),(\d+)", r"\1.\2", regex=True)  # ISO 8601 knows both
    texts = texts.str.replace(r"\s*(?:UTC|GMT|Z)$", "+00:00", regex=True, case=False)
    texts = texts.str.replace(r"\s+([+-]\d\d:?\d\d)$", r"\1", regex=True).astype(object)
    parsed = pd.to_datetime(texts, utc=True, format=_DATES[0], errors="coerce")
    for form in _DATES[1:]:
        left = parsed.isna()
        if not left.any():
            break
        parsed[left] = pd.to_datetime(texts[left], utc=True, format=form, errors="coerce")
    return parsed
