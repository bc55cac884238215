"""CSV, TSV and Parquet tables with named columns."""

import datetime
import gzip

import numpy as np
import pandas as pd
import pytest

from recalign.domains.readers import table
from recalign.errors import UserError

CSV = "customer,sku,when,stars\nu1,a,2014-07-23,5\nu1,b,2014-07-22T10:00:00Z,4\nu2,a,,3\n"
NAMED = {"user": "customer", "item": "sku", "timestamp": "when"}


def interactions(domain):
    return domain.interactions[["user", "item"]].to_numpy().tolist()


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "tsv.gz", "TAB", "parquet"])
def test_every_format_reads_the_same(tmp_path, kind):
    path = tmp_path / f"orders.{kind}"
    text = CSV if "csv" in kind else CSV.replace(",", "\t")
    if kind == "parquet":
        lines = [line.split(",") for line in CSV.splitlines()]
        pd.DataFrame(lines[1:], columns=lines[0]).to_parquet(path)
    else:
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    domain = table.read(path, columns=NAMED)
    assert interactions(domain) == [["u1", "a"], ["u1", "b"], ["u2", "a"]]
    times = domain.interactions["timestamp"]
    assert times.dtype == "Int64"
    assert times.iloc[:2].tolist() == [1406073600, 1406023200]
    assert times.isna().tolist() == [False, False, True]
    assert domain.interactions["rating"].tolist() == [5, 4, 3]


def test_parquet_types(tmp_path):
    moment = datetime.datetime(2014, 7, 23, tzinfo=datetime.UTC)
    pd.DataFrame(
        {
            "user_id": [7, 8, 8],
            "item_id": [1.0, 2.0, 3.0],
            "timestamp": pd.to_datetime([moment, None, moment], utc=True),
            "rating": np.float32([1, np.nan, 3]),
        }
    ).to_parquet(tmp_path / "i.parquet")
    pd.DataFrame(
        {
            "item_id": [1, 2, 3],
            "title": ["One", None, "Three"],
            "categories": [["Toys", "Blocks"], [], None],
            "price": [1.5, None, 2.0],
        }
    ).to_parquet(tmp_path / "items.parquet")
    domain = table.read(tmp_path / "i.parquet", tmp_path / "items.parquet")
    assert interactions(domain) == [["7", "1"], ["8", "2"], ["8", "3"]]
    assert domain.interactions["timestamp"].iloc[0] == moment.timestamp()
    assert domain.counts["timestamps_missing"] == 1
    assert domain.counts["ratings_missing"] == 1
    assert domain.items["key"].tolist() == ["1", "2", "3"]
    assert domain.items["title"].tolist() == ["One", "", "Three"]
    assert domain.items["categories"].tolist() == ["Toys, Blocks", "", ""]
    assert domain.items["price"].iloc[0] == 1.5


def test_fractions_of_a_second_are_kept(put):
    path = put("o.csv", CSV.replace("2014-07-23", "2014-07-23T00:00:00.25Z"))
    assert table.read(path, columns=NAMED).interactions["timestamp"].iloc[0] == 1406073600.25


def test_times_as_numbers(put):
    path = put("o.csv", "user,item,time\nu,a,1.5\nu,b,2\n")
    assert table.read(path).interactions["timestamp"].tolist() == [1.5, 2.0]


def refuse(read, *words):
    with pytest.raises(UserError) as error:
        read()
    for word in words:
        assert word in str(error.value)


def test_a_date_that_cannot_be_read_is_placed_in_a_file_with_multi_line_fields(put):
    text = 'user,item,time,note\nu,a,2014-01-01,"two\nlines"\nu,b,yesterday,\n'
    path = put("o.csv", text)
    refuse(lambda: table.read(path), f"{path}, line 4", "'time'", "'yesterday'", "ISO 8601")


def test_a_rating_that_cannot_be_read(put):
    path = put("o.csv", CSV.replace("00Z,4", "00Z,four"))
    refuse(
        lambda: table.read(path, columns=NAMED | {"rating": "stars"}),
        f"{path}, line 3", "'stars'", "'four'",
    )  # fmt: skip


def test_a_parquet_row_is_named_by_its_number(tmp_path):
    path = tmp_path / "o.parquet"
    pd.DataFrame({"user": ["u", None], "item": ["a", "b"]}).to_parquet(path)
    refuse(lambda: table.read(path), f"{path}, row 2", "'user' is empty")


def test_files_that_are_no_tables(put, tmp_path):
    refuse(lambda: table.read(put("o.xlsx", "x")), "o.xlsx", ".csv", ".parquet")
    refuse(lambda: table.read(put("o.parquet", "not one")), "o.parquet", "not a readable Parquet")
    refuse(lambda: table.read(tmp_path / "none.parquet"), "none.parquet", "No such file")
    pd.DataFrame({"user": [], "item": []}).to_parquet(tmp_path / "e.parquet")
    refuse(lambda: table.read(tmp_path / "e.parquet"), "no rows")
    refuse(lambda: table.read(put("o.csv", "user,price\nu,1\n")), "'item_id'", "'user', 'price'")
