"""Amazon's reviews: both editions, what is refused, and the published order of real Beauty."""

import gzip
import json

import pandas as pd
import pytest

from recalign.domains.assemble import assemble
from recalign.domains.readers import amazon, recbole
from recalign.errors import UserError

REVIEWS = [
    {"reviewerID": "u1", "asin": "a", "overall": 5.0, "unixReviewTime": 1390000000, "x": [1]},
    {"reviewerID": "u1", "asin": "b", "overall": 4.0, "unixReviewTime": 1380000000},
    {"reviewerID": "u2", "asin": "a", "overall": 1.0, "unixReviewTime": 1380000000},
]
META = [
    "{'asin': 'a', 'title': 'Ant\\'s \"Oil\" \\d', 'brand': 'Acme', 'price': 1.5, 'categories': "
    "[['Beauty', 'Oils'], ['Gifts']], 'related': {'also_bought': ['b']}, 'description': 'Fine.'}",
    '{"asin": "b", "title": "Bee", "category": ["Beauty", "Wax"], "description": ["One.", "Two."]}',
    "{'asin': 'unseen', 'title': None}",
]


def lines(records):
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)


@pytest.fixture
def read_2014(put):
    def read(reviews=REVIEWS, meta=META, **options):
        meta = put("meta.json.gz", gzip.compress(lines(meta).encode())) if meta else None
        reviews = put("reviews.json.gz", gzip.compress(lines(reviews).encode()))
        return amazon.read(amazon.EDITION_2014, reviews, meta, **options)

    return read


def test_2014(read_2014):
    domain = read_2014()
    assert domain.interactions["user"].tolist() == ["u1", "u1", "u2"]
    assert domain.interactions["item"].tolist() == ["a", "b", "a"]
    assert domain.interactions["timestamp"].tolist() == [1390000000, 1380000000, 1380000000]
    assert domain.interactions["rating"].tolist() == [5, 4, 1]
    assert domain.items.to_dict("records") == [
        {
            "key": "a",
            "title": 'Ant\'s "Oil" \\d',
            "brand": "Acme",
            "categories": "Beauty > Oils",
            "description": "Fine.",
        },
        {
            "key": "b",
            "title": "Bee",
            "brand": "",
            "categories": "Beauty > Wax",
            "description": "One. Two.",
        },
    ]


def test_the_catalogue_is_what_was_reviewed_unless_all_is_asked_for(read_2014):
    assert read_2014().items["key"].tolist() == ["a", "b"]
    assert read_2014(all_items=True).items["key"].tolist() == ["a", "b", "unseen"]
    assert read_2014(meta=None).items is None


def test_2023(put):
    reviews = [
        {"user_id": "u", "asin": "x1", "parent_asin": "x", "rating": 5.0, "timestamp": 10**12 + 1},
        {"user_id": "u", "asin": "y", "rating": 3, "timestamp": 10**12, "images": []},
        {"user_id": "u", "parent_asin": "z", "rating": None},
    ]
    meta = [
        {"parent_asin": "x", "title": "X &amp; Co", "store": "S", "categories": ["A", "B"]},
        {"parent_asin": "y", "title": None, "store": None, "categories": [], "description": []},
        {"parent_asin": "z", "title": "half \ud800", "description": ["d", "e"]},
    ]
    domain = amazon.read(
        amazon.EDITION_2023, put("r.jsonl", lines(reviews)), put("m.jsonl", lines(meta))
    )
    assert domain.interactions["item"].tolist() == ["x", "y", "z"]
    times = domain.interactions["timestamp"]
    assert times[:2].tolist() == [10**12 + 1, 10**12]
    assert domain.counts["timestamps_missing"] == domain.counts["ratings_missing"] == 1
    assert domain.items["title"].tolist() == ["X & Co", "", "half ?"]
    assert domain.items["brand"].tolist() == ["S", "", ""]
    assert domain.items["categories"].tolist() == ["A > B", "", ""]
    assert domain.items["description"].tolist() == ["", "", "d e"]


def test_metadata_as_they_are_found(read_2014):
    reviews = [{"reviewerID": "u", "asin": key} for key in ("a", "b", "c", "d", 5)]
    meta = [
        "{'asin': 'a', 'title': 'var aPageStart = (new Date()).getTime();\\nvar b;', 'price': nan}",
        "{'asin': 'b', 'title': '<script>a()</script><span>Real Pen</span>', 'brand': nan}",
        "{'asin': 'c', 'title': nan, 'categories': [['A', nan, 'B']], 'description': {'a': 1}}",
        '{"asin": "d", "title": 300, "brand": ["A", "B"], "description": NaN}',
        "{'asin': 5, 'title': 'Five', 'also': true, 'related': null, 'description': 7}",
    ]
    domain = read_2014(reviews, meta)
    assert domain.items[["title", "brand", "categories"]].to_numpy().tolist() == [
        ["", "", ""],
        ["Real Pen", "", ""],
        ["", "", "A > B"],
        ["300", "A B", ""],
        ["Five", "", ""],
    ]
    assert domain.counts["titles_with_script"] == 2
    assert domain.counts["titles_empty"] == 2


def test_numbers_as_they_are_found(read_2014):
    """Missing in any spelling, or as texts; what is whole stays exact beside what is missing."""
    rows = [("5.0", 2**60 + 1), (None, None), ("NaN", "null"), (float("nan"), ""), (4, str(2**60))]
    reviews = [
        {"reviewerID": 7, "asin": 3.0, "overall": rating, "unixReviewTime": time}
        for rating, time in rows
    ]
    domain = read_2014(reviews, None)
    assert domain.interactions["user"].unique().tolist() == ["7"]
    assert domain.interactions["item"].unique().tolist() == ["3"]
    assert domain.interactions["timestamp"].dropna().tolist() == [2**60 + 1, 2**60]
    assert domain.counts["ratings_missing"] == domain.counts["timestamps_missing"] == 3


def test_a_field_that_stands_twice(read_2014):
    double = json.dumps(REVIEWS[2])[:-1] + ', "asin": "b", "asin": "a"}'
    with pytest.raises(UserError, match=r"reviews.json.gz, line 2: names 'asin' more than once"):
        read_2014([REVIEWS[0], double])
    with pytest.raises(UserError, match=r"meta.json.gz, line 1: names 'title' more than once"):
        read_2014(meta=[META[0][:-1] + ", 'title': 'x'}", *META[1:]])
    unread = json.dumps(REVIEWS[2])[:-1] + ', "vote": 1, "vote": 2}'
    assert len(read_2014([REVIEWS[0], unread]).interactions) == 2


def test_parts_in_a_folder(put, tmp_path):
    (tmp_path / "parts").mkdir()
    put("parts/b.json.gz", gzip.compress(lines(REVIEWS[1:]).encode()))
    put("parts/a.json", lines(REVIEWS[:1]))
    domain = amazon.read(amazon.EDITION_2014, tmp_path / "parts")
    assert domain.interactions["item"].tolist() == ["a", "b", "a"]
    path = put("parts/b.json.gz", lines(REVIEWS[1:]).replace("1.0", '"bad"'))
    with pytest.raises(UserError, match=f"{path}, line 2: 'overall' is 'bad'"):
        amazon.read(amazon.EDITION_2014, tmp_path / "parts")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"reviewerID": "u", "asin": "a", "overall": 5.0', ["not JSON", "cut off"]),
        ('["u", "a"]\n', ["not an object"]),
        ("nonsense\n", ["not JSON", "nonsense"]),
        ('{"asin": "a"}\n', ["'reviewerID'"]),
        ('{"reviewerID": "", "asin": "a"}\n', ["'reviewerID'"]),
        ('{"reviewerID": ["u"], "asin": "a"}\n', ["'reviewerID' is ['u'], not a text"]),
        ('{"reviewerID": 7.656e+16, "asin": "a"}\n', ["'reviewerID' is 7.6", "all its digits"]),
        ('{"reviewerID": "u", "asin": "\\ud800"}\n', ["'asin'", "not valid Unicode"]),
        (
            '{"reviewerID": "u", "asin": "a", "overall": "five"}\n',
            ["'overall' is 'five', not a nu"],
        ),
        ('{"reviewerID": "u", "asin": "a", "overall": [5]}\n', ["'overall' is [5]"]),
        ('{"reviewerID": "u", "asin": "a", "overall": 1e999}\n', ["'overall' is inf"]),
        ('{"reviewerID": "u", "asin": "a", "unixReviewTime": 1' + "0" * 400 + "}\n", ["not a nu"]),
        ("[" * 100_000 + "\n", ["not JSON"]),
        ('{"reviewerID": ' + "9" * 5000 + "}\n", ["not JSON"]),
    ],
)
def test_reviews_that_are_refused(put, line, words):
    path = put("r.json", lines(REVIEWS[:1]) + "\n" + line)
    with pytest.raises(UserError) as error:
        amazon.read(amazon.EDITION_2014, path)
    for word in (f"{path}, line 3", *words):
        assert word in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "line",
    [
        "__import__('os').system('touch executed')",
        "{'asin': open('executed', 'w')}",
        "{'asin': 'a', 'title': [x for x in 'abc']}",
        "{'asin': 'a', 'title': " + "-" * 100_000 + "1}",
        "{'asin': 'a', 'title': " + "[" * 5000 + "}",
        "{'asin': 'a', 'title': '" + "\0" + "'}",
        "{'asin': 'a', [1]: 2}",
    ],
)
def test_metadata_are_parsed_and_never_evaluated(read_2014, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="line 2: not JSON or a Python literal"):
        read_2014(meta=[META[0], line])
    assert not (tmp_path / "executed").exists()


def test_files_that_are_cut_or_no_text(put):
    whole = gzip.compress(lines(REVIEWS * 200).encode())
    for data, word in [
        (whole[:-30], "truncated"),
        (whole[:30] + b"\0\xff" + whole[32:], "damaged"),
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b'{"reviewerID": "\xe9"}\n', "line 1: byte 0xe9 is not UTF-8"),
    ]:
        with pytest.raises(UserError, match=word):
            amazon.read(amazon.EDITION_2014, put("r.json.gz", data))


def test_metadata_of_other_items_alone(read_2014):
    with pytest.raises(UserError, match="none of the items"):
        read_2014(meta=META[2:])


def test_many_blocks_keep_their_lines(put, monkeypatch):
    from recalign.domains.readers import jsonlines

    monkeypatch.setattr(jsonlines, "_BLOCK", 4)
    text = "\n" + lines(REVIEWS * 5)
    source = jsonlines.read(put("r.json", text), amazon.EDITION_2014.reviews)
    assert len(source.frame) == 15
    assert [source.place(row).split()[-1] for row in range(15)] == [*map(str, range(2, 17))]
    assert source.frame["unixReviewTime"].dtype == "Int64"


@pytest.mark.parametrize(("name", "dated_users"), [("beauty", 22363 - 210), ("toys", 18290)])
def test_reviews_grouped_by_item_give_the_published_order(shared, put, keys_of, name, dated_users):
    """Real events, written as Amazon's file holds them: the reviews of an item together.

    The raw file is not at hand. Of it the published one keeps the times, but not which item came
    first, which decides where several events of a user share a time (a day). Items are written in
    ascending order of their ids: that this gives the published order for every user with times
    (in Beauty, 76,075 ties) says that the raw file had it so, and that ties keep file order.
    """
    folder = shared / "data" / "amazon-2014" / name
    path = folder / f"{name}.inter"
    events = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    events.columns = ["user", "item", "time"]
    dated = events.groupby("user")["time"].transform(lambda times: (times != "").all())
    grouped = events[dated].sort_values("item", kind="stable")
    assert grouped["user"].nunique() == dated_users
    records = [
        {"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": int(time)}
        for user, item, time in grouped.itertuples(index=False)
    ]
    reviews = put("reviews_5.json.gz", gzip.compress(lines(records).encode(), 1))
    found = keys_of(assemble(amazon.read(amazon.EDITION_2014, reviews), name))
    published = keys_of(assemble(recbole.read(path, folder / f"{name}.item"), name))
    assert found == {user: published[user] for user in found}
    # It is the sort by time that does it: the file's own order is another.
    in_file = grouped.groupby("user")["item"].agg(list)
    assert sum(in_file[user] != published[user] for user in found) > 10_000
