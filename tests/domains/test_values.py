"""Ids, texts, numbers and times, whatever type and spelling they come in."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.domains import values
from recalign.domains.source import Source, convert_arrow
from recalign.errors import UserError

INT64 = st.integers(-(2**63), 2**63 - 1)


def source_of(column):
    """A table with the column "x": a list of texts, as text files give it, Arrow, or pandas."""
    if isinstance(column, pd.Series):
        frame = column.to_frame("x")
    elif isinstance(column, pa.Array):
        frame = convert_arrow(pa.table({"x": column}))
    else:
        frame = pd.DataFrame({"x": pd.Series(column, dtype="str")})
    return Source("t", frame, lambda row: f"t, row {row + 1}")


def missing_as_none(column):
    return [None if value is pd.NA else value for value in column]


def refuse(read, *words):
    with pytest.raises(UserError) as error:
        read()
    for word in words:
        assert word in str(error.value)


MISSING = [
    "",
    " ",
    "NaN",
    "nan",
    "NA",
    "N/A",
    "null",
    "NULL",
    "None",
    "NaT",
    "<NA>",
    "\\N",
    "-",
    "—",
    "0000-00-00",
    "0000-00-00 00:00:00",
]


@pytest.mark.parametrize("missing", MISSING)
def test_ways_to_write_that_there_is_no_number_or_time(missing):
    column = source_of(["1", missing, "3"])
    assert missing_as_none(values.read_numbers(column, "x")) == [1, None, 3]
    assert missing_as_none(values.read_times(column, "x")) == [1, None, 3]
    dates = source_of([missing, "2014-05-13", missing])
    assert missing_as_none(values.read_times(dates, "x")) == [None, 1399939200, None]


@given(st.lists(st.none() | INT64, min_size=1))
def test_integers_stay_integers_in_all_formats(numbers):
    arrow = source_of(pa.array(numbers, pa.int64()))
    text = source_of(["" if number is None else str(number) for number in numbers])
    floats = source_of(["" if number is None else f"{number}.0" for number in numbers])
    for column in (arrow, text, floats):
        for read in (values.read_numbers, values.read_times):
            assert missing_as_none(read(column, "x")) == numbers


@given(st.lists(st.none() | INT64, min_size=1))
def test_the_same_id_is_the_same_in_all_formats(numbers):
    """Two tables agree on whole numbers, one of which went through floats, decimals or text."""
    given_ = [number for number in numbers if number is not None] or [0]
    expected = [str(number) for number in given_]
    columns = [
        pa.array(given_, pa.int64()),
        pa.array(map(Decimal, given_), pa.decimal128(30, 3)),
        pa.array([str(number).encode() for number in given_]),
        pa.array(map(str, given_)).dictionary_encode(),
        [f" {number} " for number in given_],
        [f"{number}.0" for number in given_],
        [f"{number}." for number in given_],
    ]
    if max(map(abs, given_)) < 2**53:
        columns += [pa.array(given_, pa.float64()), [f"{number:.17e}" for number in given_]]
    for column in columns:
        assert values.read_ids(source_of(column), "x").tolist() == expected


@pytest.mark.parametrize(
    "text", ["1.5", "1e5", "1.55E1x", "12e3", "007", "1.0.0", "v1.0", "0x1F", "1E-3", "NA"]
)
def test_ids_that_only_look_like_whole_numbers_are_left_alone(text):
    assert values.read_ids(source_of([text]), "x").tolist() == [text]


def test_whole_numbers_as_java_writes_them():
    ids = values.read_ids(source_of(["1.0E7", "1.2345678E7", "-1.5E10", "1.55E1"]), "x").tolist()
    assert ids == ["10000000", "12345678", "-15000000000", "1.55E1"]


@pytest.mark.parametrize(
    "text",
    [
        "caf\u00e9",
        "cafe\u0301",
        "\ufeffcaf\u00e9",
        " caf\u00e9\u200f \u200b",
        "\u00a0cafe\u0301",
        "caf\u00e9\0\0",
        "\x1dcaf\u00e9",
    ],
)
def test_an_id_is_what_is_seen_of_it(text):
    assert values.read_ids(source_of([text]), "x").tolist() == ["caf\u00e9"]


def test_zeros_that_fill_an_id_up_are_not_of_it():
    assert values.read_ids(source_of(["u0\0\0", "u0"]), "x").tolist() == ["u0", "u0"]


def test_marks_within_an_id_are_of_it():
    for text in ("\U0001f469\u200d\U0001f467", "a\u200fb", "\u2764\ufe0f"):
        assert values.read_ids(source_of([text]), "x").tolist() == [text]


@pytest.mark.parametrize("text", ["1.23457E+12", "1E+15", "9.78316E+12", "-1.2E+02"])
def test_numbers_that_a_spreadsheet_has_shortened(text):
    for read in (values.read_ids, values.read_times):
        column = source_of(["7", text, "8"])
        refuse(lambda read=read, column=column: read(column, "x"), "t, row 2", text, "spreadsheet")


def test_numbers_with_a_power_that_have_all_their_digits():
    assert values.read_ids(source_of(["1.2345E+04", "1e+05"]), "x").tolist() == ["12345", "100000"]
    assert values.read_times(source_of(["1.4e+09", "1.4E9"]), "x").tolist() == [1.4e9, 1.4e9]


def test_ids_that_went_through_floats_too_small_for_them():
    mixed = pd.Series(["a", 2.0**60], dtype=object)
    nullable = pd.Series([1.0, 2.0**60], dtype="Float64")
    steam = ["1", "7.656119797098248e+16"]  # as pandas and Java write a float
    java = ["1", "7.656119797098248E16"]
    floats = (pa.array([1.0, 2.0**60]), pa.array(np.float32([1, 2**24 + 2])))
    for column in (*floats, mixed, nullable, steam, java):
        for read in (values.read_ids, values.read_repeated_ids):
            refuse(lambda r=read, c=column: r(source_of(c), "x"), "row 2", "exact only")
    assert values.read_ids(source_of(pa.array([2.0**53])), "x").tolist() == [str(2**53)]


def test_commas_that_can_be_read_in_two_ways():
    for column in (["1,234"], ["1,500", "2"], ["1,5", "1.5"], ["1,5", "1,234,567"]):
        for read in (values.read_numbers, values.read_times):
            refuse(
                lambda read=read, column=column: read(source_of(column), "x"), "row 1", column[0]
            )


def test_ids_beyond_64_bits():
    column = pa.array([2**64 - 1, 1], pa.uint64())
    assert values.read_ids(source_of(column), "x").tolist() == [str(2**64 - 1), "1"]
    numbers = values.read_numbers(source_of(column), "x")
    assert numbers.dtype == "Float64"
    assert values.read_ids(source_of(["9" * 40 + ".0"]), "x").tolist() == ["9" * 40]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([["u0"], ["u1"]]),
        pa.array([{"id": 1}, {"id": 2}]),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.array([b"\xff\xfe"]),
    ],
)
def test_what_is_no_id(column):
    refuse(lambda: values.read_ids(source_of(column), "x"), "t, row 1: 'x' is", "not")


def test_an_id_that_is_missing():
    for column in (["a", " "], pa.array([1, None]), pa.array([1.0, float("nan")])):
        refuse(lambda column=column: values.read_ids(source_of(column), "x"), "t, row 2", "empty")


@pytest.mark.parametrize("value", ["soon", "inf", "1e999", "12,500", "$12.99", "4 stars", "0x10"])
def test_what_is_no_number(value):
    column = source_of(["1", value])
    refuse(lambda: values.read_numbers(column, "x"), "t, row 2", repr(value), "not a number")
    assert missing_as_none(values.read_numbers(column, "x", lenient=True)) == [1, None]


def test_numbers_of_other_types():
    for column, expected in (
        (pa.array([True, None, False]), [1, None, 0]),
        (["True", "", "False"], [1, None, 0]),
        (["TRUE", "", "FALSE"], [1, None, 0]),
        (["1,5", "2", "", "1.234,5"], [1.5, 2, None, 1234.5]),
        (["1,400,000,000", "2,000"], [1400000000, 2000]),
        (["1,234.5", "-2,000"], [1234.5, -2000]),
        (pa.array([Decimal("3.50"), None, Decimal("2")]), [3.5, None, 2]),
        (pa.array([1.5, None, float("nan")]), [1.5, None, None]),
        (pa.array(["1", None, "2.5"]), [1, None, 2.5]),
        (pa.array(["5", "5", None]).dictionary_encode(), [5, 5, None]),
        (pa.array([None, None], pa.null()), [None, None]),
    ):
        assert missing_as_none(values.read_numbers(source_of(column), "x")) == expected


@pytest.mark.parametrize(
    "text",
    [
        "2014-05-13T16:53:20Z",
        "2014-05-13 16:53:20",
        "2014-05-13 16:53:20 UTC",
        "2014-05-13 16:53:20.000 UTC",
        "2014-05-13 16:53:20 GMT",
        "2014-05-13 16:53:20+00",
        "2014-05-13 18:53:20 +0200",
        "2014/05/13 16:53:20",
        "2014-05-13 16:53:20,000",
        "2014-05-13T16:53:20,000Z",
        "2014-05-13 04:53:20 PM",
        "Tue, 13 May 2014 16:53:20 GMT",
        "Tue, 13 May 2014 16:53:20 +0000",
        "Tue May 13 16:53:20 +0000 2014",
        "Tue May 13 16:53:20 2014",
    ],
)
def test_ways_to_write_a_date(text):
    assert values.read_times(source_of([text, ""]), "x")[0] == 1400000000


def test_days_without_a_time_of_day():
    for text in ("2014-05-13", "05 13, 2014", "13 May 2014", "13-May-2014", "May 13, 2014"):
        assert values.read_times(source_of([text]), "x")[0] == 1399939200
    day = pa.array([datetime.date(2014, 5, 13), None])
    assert values.read_times(source_of(day), "x")[0] == 1399939200


@pytest.mark.parametrize(
    "text", ["05/06/2014", "13.05.2014", "yesterday", "today", "now", "2014-13-01", "16:53:20"]
)
def test_dates_that_cannot_be_read_in_one_way(text):
    refuse(lambda: values.read_times(source_of([text]), "x"), "t, row 1", repr(text), "ISO 8601")


@pytest.mark.parametrize(("unit", "large"), [("s", 2**50), ("ms", -(2**60))])
def test_dates_so_far_away_that_they_are_none(unit, large):
    column = source_of(pa.array([None, 1, large], pa.timestamp(unit)))
    refuse(lambda: values.read_times(column, "x"), f"t, row 3: 'x' is {large} {unit} since 1970")


def test_nanoseconds_of_dates_are_kept():
    times = pa.array([2**60 + 1, None, 2**60], pa.timestamp("ns", tz="UTC"))
    assert missing_as_none(values.read_times(source_of(times), "x")) == [2**60 + 1, None, 2**60]
    text = ["2014-05-13T16:53:20.000000002Z", "2014-05-13T16:53:20.000000001Z"]
    assert values.read_times(source_of(text), "x").tolist() == [14 * 10**17 + 2, 14 * 10**17 + 1]


def test_columns_without_a_role():
    columns = {
        "numbers": (pa.array([1, None]), [1, pd.NA]),
        "flags": (pa.array([True, None]), [True, pd.NA]),
        "decimals": (pa.array([Decimal("1.5"), None]), [1.5, pd.NA]),
        "lists": (pa.array([["a", "b"], None]), ["a, b", ""]),
        "lists of lists": (pa.array([[["a"], ["b"]], []]), ["a, b", ""]),
        "structs": (pa.array([{"a": 1}, None]), ['{"a": 1}', ""]),
        "days": (pa.array([datetime.date(2014, 5, 13), None]), ["2014-05-13", ""]),
        "spans": (pa.array([1, None], pa.duration("s")), ["0 days 00:00:01", ""]),
        "texts": (["None", "nan"], ["None", ""]),
    }
    for name, (column, expected) in columns.items():
        found = values.read_any(source_of(column), "x").tolist()
        assert found == expected or (found[0] == expected[0] and pd.isna(found[1])), name


@pytest.mark.parametrize(
    "column", [[b"\xff", None], [[b"\xff"], None], [{"bytes": b"\xff", "path": "a.png"}, None]]
)
def test_pictures_are_left_out(column):
    assert values.read_any(source_of(pa.array(column)), "x") is None


def test_texts():
    assert values.read_texts(source_of(pa.array([1917.0, None])), "x").tolist() == ["1917", ""]
    assert values.read_texts(source_of(["2.0", "NaN", "NULL"]), "x").tolist() == ["2.0", "", ""]
    assert values.read_texts(source_of(pa.array([b"a", None])), "x").tolist() == ["a", ""]
    assert values.read_texts(source_of(pa.array([["a", None, "b"]])), "x").tolist() == ["a, b"]


def check_floats(column, expected):
    found = values.read_numbers(source_of(column), "x").to_numpy(np.float64, na_value=np.nan)
    np.testing.assert_array_equal(found, np.array(expected, np.float64))


@given(st.lists(st.floats(allow_infinity=False) | st.none(), min_size=1))
def test_floats_are_what_they_were(numbers):
    check_floats(pa.array(numbers, pa.float64(), from_pandas=True), numbers)


@given(st.lists(st.integers(-(10**9), 10**9).map(lambda number: number / 1000), min_size=1))
def test_decimals_are_what_is_written(numbers):
    """To three places; the last bit of longer ones depends on the parser of pandas' version."""
    check_floats([repr(number) for number in numbers], numbers)
