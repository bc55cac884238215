"""CSV, TSV and Parquet tables with named columns."""

import datetime
import decimal
import gzip
import json
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from recalign.domains.assemble import assemble
from recalign.domains.readers import jsonlines, table
from recalign.errors import UserError

CSV = "customer,sku,when,stars\nu1,a,2014-07-23,5\nu1,b,2014-07-22T10:00:00Z,4\nu2,a,,3\n"
NAMED = {"user": "customer", "item": "sku", "timestamp": "when"}


def interactions(domain):
    return domain.interactions[["user", "item"]].to_numpy().tolist()


@pytest.mark.parametrize(
    "kind", ["csv", "csv.gz", "tsv", "tsv.gz", "TAB", "parquet", "feather", "orc", "jsonl", "json"]
)
def test_every_format_reads_the_same(tmp_path, kind):
    path = tmp_path / f"orders.{kind}"
    text = CSV if "csv" in kind else CSV.replace(",", "\t")
    lines = [line.split(",") for line in CSV.splitlines()]
    frame = pd.DataFrame(lines[1:], columns=lines[0])
    if kind in ("parquet", "feather", "orc"):
        getattr(frame, f"to_{kind}")(path)
    elif kind in ("jsonl", "json"):
        frame.to_json(path, orient="records", lines=kind == "jsonl")
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


BASE = pd.DataFrame(
    [(f"u{n % 6}", f"i{n % 12}", 1400000000 + n, n % 5 + 1) for n in range(30)],
    columns=["user_id", "item_id", "timestamp", "rating"],
)


def check_base(path):
    pd.testing.assert_frame_equal(
        table.read(path).interactions.astype({"user": "str", "item": "str"}),
        BASE.set_axis(["user", "item", "timestamp", "rating"], axis=1),
        check_dtype=False,
    )


@pytest.mark.parametrize("separator", [",", ";", "|", "\t", " "])
@pytest.mark.parametrize("name", ["o.csv", "o.tsv", "o.txt", "part-00000"])
def test_the_separator_is_the_one_that_is_there(put, name, separator):
    check_base(put(name, BASE.to_csv(sep=separator, index=False)))


def test_what_pandas_writes_by_default(put):
    check_base(put("o.csv", BASE.to_csv()))
    check_base(put("p.csv", BASE.rename_axis("Unnamed: 0").to_csv()))


def test_spaces_beside_separators(put):
    check_base(put("o.csv", BASE.to_csv(index=False).replace(",", " , ")))
    domain = table.read(
        put("e.csv", BASE.to_csv()), put("i.csv", 'item_id, title\ni0, "Ant, the"\n i1,Bee\n')
    )
    assert domain.items[["key", "title"]].to_numpy().tolist() == [["i0", "Ant, the"], ["i1", "Bee"]]


def test_a_folder_and_a_pattern(tmp_path):
    for number, start in ((2, 0), (10, 20)):
        part = BASE.iloc[start : start + 20]
        part.to_parquet(tmp_path / f"part-{number}.snappy.parquet")
    (tmp_path / "_SUCCESS").touch()
    check_base(tmp_path)
    check_base(tmp_path / "part-*.parquet")
    with pytest.raises(UserError, match="No such file"):
        table.read(tmp_path / "part-*.csv")


def test_folders_that_name_a_column(tmp_path):
    BASE.to_parquet(tmp_path, partition_cols=["rating"])
    domain = table.read(tmp_path)
    found = domain.interactions.sort_values("timestamp", ignore_index=True)
    assert found["rating"].tolist() == BASE["rating"].tolist()
    assert len(table.read(tmp_path / "rating=[12]").interactions) == 12
    # The folders above have no say.
    part = next((tmp_path / "rating=5").iterdir())
    assert "rating" not in table.read(part).interactions
    assert "rating" not in table.read(part.parent).interactions
    (tmp_path / "rating=5").rename(tmp_path / "rating=__HIVE_DEFAULT_PARTITION__")
    assert table.read(tmp_path).counts["ratings_missing"] == 6


def test_a_folder_that_names_a_column_in_bytes_that_are_no_text(tmp_path):
    folder = tmp_path / os.fsdecode(b"user_id=\xe9")
    folder.mkdir()
    BASE.drop(columns="user_id").to_csv(folder / "a.csv")
    refuse(lambda: table.read(tmp_path), "a.csv", "'user_id=\\udce9'", "not UTF-8")


def test_a_place_in_a_folder_is_the_part_and_its_line(tmp_path):
    BASE[:10].to_csv(tmp_path / "a.csv", index=False)
    BASE[10:].assign(rating="five").to_csv(tmp_path / "b.csv", index=False)
    refuse(lambda: table.read(tmp_path), f"{tmp_path / 'b.csv'}, line 2", "'rating' is 'five'")
    BASE[:10].to_json(tmp_path / "c.jsonl", orient="records", lines=True)
    (tmp_path / "b.csv").write_text("user_id,item_id,timestamp,rating\n")  # a part without rows
    assert len(table.read(tmp_path).interactions) == 20
    (tmp_path / "a.csv").unlink()
    (tmp_path / "c.jsonl").unlink()
    refuse(lambda: table.read(tmp_path), "no rows")


def test_integers_of_which_some_are_missing_keep_their_digits(put, tmp_path):
    """Nanoseconds as 64-bit integers, a user without one of them, and events in reverse."""
    times = [None, 2**60 + 3, 2**60 + 2, 2**60 + 1]
    frame = pd.DataFrame({"user": ["v", "u", "u", "u"], "item": list("abcd")})
    frame["time"] = pd.array(times, "Int64")
    frame.to_parquet(tmp_path / "o.parquet")
    frame.to_json(tmp_path / "o.jsonl", orient="records", lines=True)
    frame.to_csv(tmp_path / "o.csv")
    frame.to_csv(tmp_path / "p.csv", na_rep="NULL")
    for name in ("o.parquet", "o.jsonl", "o.csv", "p.csv"):
        found = table.read(tmp_path / name).interactions["timestamp"]
        assert found[1:].tolist() == times[1:], name


def test_parts_of_which_some_have_integers_and_others_floats(tmp_path, monkeypatch):
    """As pandas writes integers of which some are missing."""
    times = [2**60 + n for n in range(4)]
    first = pd.DataFrame({"user": [7] * 4, "item": list("abcd"), "time": times})
    first["price"] = range(4)
    second = pd.DataFrame({"user": [7.0, 8.0], "item": ["e", "f"], "time": [1.0, None]})
    second["price"] = 0.5
    (tmp_path / "parts").mkdir()
    for number, frame in enumerate((first, second)):
        frame.to_parquet(tmp_path / "parts" / f"{number}.parquet")
    monkeypatch.setattr(jsonlines, "_BLOCK", 4)
    lines = pd.concat([first.astype(object), second.astype(object)])
    lines.to_json(tmp_path / "o.jsonl", orient="records", lines=True)
    for path in (tmp_path / "parts", tmp_path / "o.jsonl"):
        domain = table.read(path, path)
        assert domain.interactions["user"].tolist() == ["7"] * 5 + ["8"]
        assert [int(t) for t in domain.interactions["timestamp"][:4]] == times
        assert domain.items["price"].tolist() == [0, 1, 2, 3, 0.5, 0.5]


def test_parts_of_which_one_has_nothing_in_a_column(tmp_path, monkeypatch):
    """It has no type of its own there: numbers of the others were texts beside it."""
    first = BASE.iloc[:2].assign(price=None, new=None, note=None)
    second = BASE.iloc[2:].assign(price=2.5, new=True, note=None)
    (tmp_path / "parts").mkdir()
    for number, frame in enumerate((first, second)):
        frame.to_parquet(tmp_path / "parts" / f"{number}.parquet")
    lines = "".join(part.to_json(orient="records", lines=True) for part in (first, second))
    (tmp_path / "o.jsonl").write_text(lines)
    whole = table.read(tmp_path / "o.jsonl", tmp_path / "o.jsonl").items
    monkeypatch.setattr(jsonlines, "_BLOCK", 2)
    for path in (tmp_path / "parts", tmp_path / "o.jsonl"):
        items = table.read(path, path).items
        assert items["price"].dtype == np.float64
        assert items["new"].dtype == "boolean"
        pd.testing.assert_frame_equal(items, whole)


def test_a_folder_that_hugging_face_saved(tmp_path):
    found = pa.Table.from_pandas(BASE, preserve_index=False)
    with pa.ipc.new_stream(tmp_path / "data-00000-of-00001.arrow", found.schema) as stream:
        stream.write_table(found)
    (tmp_path / "state.json").write_text("{\n}")
    (tmp_path / "dataset_info.json").write_text("{\n}")
    check_base(tmp_path)


def test_a_json_object_of_lists(put):
    check_base(put("o.json", json.dumps(BASE.to_dict("list"))))


def test_zones_that_python_does_not_know(tmp_path):
    times = pa.array([1400000000, None], pa.timestamp("s", tz="Mars/Olympus"))
    columns = {"user": ["u", "u"], "item": ["a", "b"], "time": times}
    feather.write_feather(pa.table(columns), tmp_path / "o.arrow")
    domain = table.read(tmp_path / "o.arrow", tmp_path / "o.arrow")
    assert domain.interactions["timestamp"][0] == 1400000000


def test_ids_that_are_bytes_of_a_uuid(tmp_path):
    ids = pa.array([bytes(15) + b"a", bytes(range(16))], pa.uuid())
    parquet.write_table(pa.table({"user": ids, "item": ["a", "b"]}), tmp_path / "o.parquet")
    found = table.read(tmp_path / "o.parquet").interactions["user"].tolist()
    assert found == [
        "00000000-0000-0000-0000-000000000061",
        "00010203-0405-0607-0809-0a0b0c0d0e0f",
    ]


def test_quotes_that_are_not_of_the_format_are_of_the_title(put):
    titles = ['"Weird" Al Hits', 'x "y"', '12" vinyl', 'say "a", "b"']
    for name, separator in (("i.tsv", "\t"), ("i.csv", "|")):
        lines = [f"i{n}{separator}{title}" for n, title in enumerate(titles)]
        text = "\n".join([f"item_id{separator}title", *lines, f'i9{separator}"a ""b"" c"'])
        domain = table.read(put("e.csv", BASE.to_csv()), put(name, text))
        assert domain.items["title"].tolist() == [*titles, 'a "b" c']
    opened = table.read(put("e.csv", BASE.to_csv()), put("j.tsv", 'item_id\ttitle\ni0\t"Open\n'))
    assert opened.items["title"].tolist() == ['"Open']


def test_events_and_items_of_which_one_has_whole_floats_are_the_same_items(put):
    events = BASE.assign(item_id=[float(item[1:]) for item in BASE["item_id"]])
    items = "item_id,title\n" + "".join(f"{n},Item {n}\n" for n in range(12))
    domain = table.read(put("e.csv", events.to_csv()), put("i.csv", items))
    assert set(domain.interactions["item"]) == set(domain.items["key"])


def test_columns_named_as_ours_are_all_kept(put):
    items = "item_id,key,key_,title,title_,brand\ni0,1,2,T,3,B\n"
    domain = table.read(
        put("e.csv", BASE.to_csv()), put("i.csv", items), {"title": "title_", "brand": "key"}
    )
    row = domain.items.iloc[0].to_dict()
    assert sorted(row.values()) == sorted(["i0", "1", "2", "T", "3", "B", ""])
    assert row["key"] == "i0"
    assert row["title"] == "3"
    assert row["brand"] == "1"
    assert len(domain.columns["items_kept"]) == 3


def test_a_doubled_name_matters_only_where_it_plays_a_role(put, tmp_path):
    columns = pa.Table.from_arrays([["u"], ["a"], [1], [2]], ["user", "item", "x", "x"])
    parquet.write_table(columns, tmp_path / "o.parquet")
    assert interactions(table.read(tmp_path / "o.parquet")) == [["u", "a"]]
    assert len(table.read(put("o.csv", "user,item,x,x\nu,a,1,2\n")).interactions) == 1
    refuse(lambda: table.read(put("o.csv", "user,item,item\nu,a,b\n")), "'item' more than once")
    lines = '{"user": "u", "item": "a"}\n{"user": "u", "item": "b", "x": 1, "x": 2}\n'
    rows = lines.splitlines()
    for text, where in (
        (lines, "line 2"),
        (lines.replace('"', "'"), "line 2"),
        (f"[{','.join(rows)}]", "object 2"),
    ):
        assert len(table.read(put("o.jsonl", text)).interactions) == 2
        path = put("o.jsonl", text.replace("x", "item"))
        refuse(lambda path=path: table.read(path), f"{path}, {where}: names 'item' more than once")


def test_pictures_and_other_types_stop_nothing(put, tmp_path):
    rows = {"user_id": ["u"] * 3, "item_id": ["a", "b", "c"], "thumbnail": [b"\xff", b"\0", None]}
    pd.DataFrame(rows).to_parquet(tmp_path / "e.parquet")
    items = {
        "item_id": ["a", "b"],
        "thumbnail": [b"\xff", None],
        "image": [{"bytes": b"\xff"}, None],
        "sold": [True, None],
        "price": [decimal.Decimal("1.50"), None],
        "added": [datetime.date(2014, 5, 13), None],
    }
    pd.DataFrame(items).to_parquet(tmp_path / "i.parquet")
    domain = table.read(tmp_path / "e.parquet", tmp_path / "i.parquet")
    assert domain.columns["items_ignored"] == ["thumbnail", "image"]
    assert domain.items.iloc[0, 4:].tolist() == [True, 1.5, "2014-05-13"]
    # Items that the table lacks join it, and all of it can be written.
    prepared = assemble(domain, "x")
    prepared.items.to_parquet(tmp_path / "written.parquet")
    assert prepared.num_items == 3


def test_lines_of_json_of_several_types(put):
    text = (
        '{"user": 5, "item": 7.0, "rating": null, "x": {"a": [1]}}\n'
        '\n{"user": "u", "item": "b", "rating": "4", "time": "2014-05-13", "x\\ud800": "\\ud800"}\n'
    )
    domain = table.read(put("o.jsonl", text))
    assert interactions(domain) == [["5", "7"], ["u", "b"]]
    assert domain.counts == {
        "timestamps_missing": 1, "ratings_missing": 1, "duplicate_interactions_kept": 0
    }  # fmt: skip
    assert domain.columns["interactions_ignored"] == ["x", "x\\ud800"]
    half = put("h.jsonl", text.replace('"b"', '"\\ud801"'))
    refuse(lambda: table.read(half), f"{half}, line 3", "'item' is '\\ud801'", "not valid Unicode")
    items = table.read(put("e.csv", BASE.to_csv()), put("i.jsonl", text.replace("user", "title")))
    assert items.items.iloc[1].to_dict() == {
        "key": "b", "title": "u", "brand": "", "categories": "", "rating": "4",
        "x": "", "time": "2014-05-13", "x\\ud800": "?",
    }  # fmt: skip
    path = put("p.jsonl", text.replace('"4"', '"four"'))
    refuse(lambda: table.read(path), f"{path}, line 3", "'four'")
    refuse(lambda: table.read(put("q.jsonl", text + "{")), "line 4", "not JSON", "cut off")
    refuse(lambda: table.read(put("r.json", "[1]")), "object 1", "not an object")
    refuse(lambda: table.read(put("s.json", '[{"a": 1}')), "begins like a JSON list")
    refuse(lambda: table.read(put("t.jsonl", '{"user": ["u"], "item": "a"}')), "not one value")


@pytest.mark.parametrize(
    "names",
    [
        ["USER_ID", "ITEM_ID", "TIMESTAMP", "RATING"],
        ["UserId", "ProductId", "Time", "Rating"],
        ["User ID", "Item-Id", "Timestamp", "rating"],
        ["\u200buser_id", "item_id\u00a0", "timestamp\ufeff", "rating"],
    ],
)
def test_names_that_are_spelled_otherwise(put, names):
    check_base(put("o.csv", BASE.to_csv(header=names, index=False)))


def test_a_name_to_the_letter_comes_first(put):
    domain = table.read(put("o.csv", "USER_ID,Item,item_id,user\nU,A,a,u\n"))
    assert interactions(domain) == [["u", "a"]]


def test_an_item_table_without_titles_is_told(put):
    events = put("e.csv", BASE.to_csv())
    domain = table.read(events, put("i.csv", "item_id,label\ni0,Ball\n"))
    [warning] = domain.warnings
    assert "i.csv: no column of titles (title, item_name" in warning
    assert "'item_id', 'label'" in warning
    assert table.read(events, put("i.csv", "item_id,Title\ni0,Ball\n")).warnings == []


@pytest.mark.parametrize("factor", [1000, 10**6, 10**9])
def test_times_of_two_units_are_refused(put, factor):
    times = BASE["timestamp"].where(BASE.index % 2 == 0, BASE["timestamp"] * factor)
    path = put("o.csv", BASE.assign(timestamp=times).to_csv())
    refuse(lambda: table.read(path), str(path), "seconds and others", "one unit")
    check_base(put("o.csv", BASE.assign(timestamp=BASE["timestamp"]).to_csv()))


def test_a_table_without_a_header_or_columns(put, tmp_path):
    told = "say which it is of 'u0', 'i0', '100', '5'; numbers name no columns: has the file a hea"
    refuse(lambda: table.read(put("o.csv", "u0,i0,100,5\nu0,i1,101,4\n")), told)
    pa.parquet.write_table(pa.table({}), tmp_path / "none.parquet")
    refuse(lambda: table.read(tmp_path / "none.parquet"), "for the user; there is none at all")


def test_parts_that_call_a_column_otherwise(tmp_path):
    BASE[:10].to_csv(tmp_path / "a.csv", index=False)
    for other in ("time", "Timestamp"):
        BASE[10:].rename(columns={"timestamp": other}).to_csv(tmp_path / "b.csv", index=False)
        refuse(lambda: table.read(tmp_path), "'timestamp' in one part, in", other, "b.csv")
    BASE[10:].to_csv(tmp_path / "b.csv", index=False, header=False)
    refuse(lambda: table.read(tmp_path), "b.csv: no column 'user_id'", "has it a header")
    BASE[10:].drop(columns="rating").to_csv(tmp_path / "b.csv", index=False)
    assert table.read(tmp_path).counts["ratings_missing"] == 20


def test_json_as_pandas_writes_it_and_python_literals(put, tmp_path):
    BASE.to_json(tmp_path / "o.json")
    check_base(tmp_path / "o.json")
    check_base(put("p.jsonl", "".join(f"{row}\n" for row in BASE.to_dict("records"))))
    assert (
        len(table.read(put("q.jsonl", '{"user": "u", "item": "a", "x": {"a": 1}}')).interactions)
        == 1
    )
