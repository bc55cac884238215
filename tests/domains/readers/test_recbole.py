"""RecBole's atomic files."""

import numpy as np
import pytest

from recalign.domains.readers import recbole
from recalign.errors import UserError

INTER = "user_id:token\titem_id:token\ttimestamp:float\nu1\ta\t3\nu1\tb\t1\nu2\ta\t\n"
ITEM = "item_id:token\ttitle:token_seq\nb\tBee\na\tAnt\n"


def test_columns_in_any_order_some_kept_some_ignored(put):
    inter = put(
        "x.inter",
        "rating:float\titem_id:token\tdevice:token\tuser_id:token\n4.5\ta\tphone\tu1\n\tb\ttab\tu1\n",
    )
    item = put(
        "x.item",
        "class:token_seq\tweight:float\tmovie_title:token_seq\titem_id:token\tcolour:token\n"
        "Animation Comedy\t1.5\tToy Story\ta\tred\n\t\t\tb\t\n",
    )
    domain = recbole.read(inter, item)
    assert domain.interactions["user"].tolist() == ["u1", "u1"]
    np.testing.assert_array_equal(domain.interactions["rating"], np.float32([4.5, np.nan]))
    assert "timestamp" not in domain.interactions
    assert domain.items.columns.tolist() == [
        "key", "title", "brand", "categories", "weight", "colour"
    ]  # fmt: skip
    assert domain.items.iloc[0].tolist() == ["a", "Toy Story", "", "Animation Comedy", 1.5, "red"]
    assert domain.columns["interactions"]["rating"] == "rating"
    assert domain.columns["interactions_ignored"] == ["device"]
    assert domain.columns["items_kept"] == ["weight", "colour"]
    assert domain.counts["ratings_missing"] == 1
    assert domain.counts["titles_empty"] == 1
    assert "file order" in domain.warnings[0]


def test_whole_timestamps_stay_exact_and_missing_ones_are_counted(put):
    big = 2**62 + 1
    domain = recbole.read(put("x.inter", INTER.replace("\t3\n", f"\t{big}\n")), put("x.item", ITEM))
    assert domain.interactions["timestamp"].dtype == "Int64"
    assert domain.interactions["timestamp"].iloc[0] == big
    assert domain.counts["timestamps_missing"] == 1


def test_the_item_file_is_optional(put):
    assert recbole.read(put("x.inter", INTER)).items is None


def test_columns_can_be_named(put):
    inter = put("x.inter", "who:token\twhat:token\tuser_id:token\nu1\ta\tz\n")
    item = put("x.item", "sku:token\tlabel:token_seq\ttitle:token_seq\na\tAnt\tother\n")
    named = {"user": "who", "item": "what", "catalogue_item": "sku", "title": "label"}
    domain = recbole.read(inter, item, named)
    assert domain.interactions.iloc[0].tolist() == ["u1", "a"]
    assert domain.items[["key", "title", "title_"]].iloc[0].tolist() == ["a", "Ant", "other"]


def refuse(read, *words):
    with pytest.raises(UserError) as error:
        read()
    for word in words:
        assert word in str(error.value)


def test_a_missing_column_is_named_with_those_that_are_there(put):
    path = put("x.inter", INTER.replace("user_id", "person"))
    refuse(lambda: recbole.read(path), str(path), "'user_id'", "user", "'person', 'item_id'")
    path = put("y.inter", INTER)
    refuse(
        lambda: recbole.read(path, columns={"rating": "stars"}), str(path), "'stars'", "'timestamp'"
    )


def test_a_column_has_one_role(put):
    path = put("x.inter", INTER)
    refuse(lambda: recbole.read(path, columns={"user": "item_id"}), "both user and item")


@pytest.mark.parametrize("value", ["soon", "inf", "1e999", "12,500"])
def test_a_number_that_cannot_be_read(put, value):
    path = put("x.inter", INTER.replace("\t1\n", f"\t{value}\n"))
    refuse(lambda: recbole.read(path), f"{path}, line 3", "'timestamp'", repr(value))


def test_a_rating_beyond_single_precision(put):
    path = put("x.inter", INTER.replace("timestamp:", "rating:").replace("\t1\n", "\t1e181\n"))
    refuse(lambda: recbole.read(path), f"{path}, line 3", "'rating' is 1e+181", "too large")


def test_a_date_among_numbers(put):
    path = put("x.inter", INTER.replace("\t1\n", "\t2014-07-01\n"))
    refuse(lambda: recbole.read(path), "line 3", "'2014-07-01'")


def test_an_empty_id(put):
    path = put("x.inter", INTER.replace("u1\tb", " \tb"))
    refuse(lambda: recbole.read(path), f"{path}, line 3", "'user_id' is empty")
    path = put("x.item", ITEM.replace("a\tAnt", "\tAnt"))
    refuse(
        lambda: recbole.read(put("x.inter", INTER), path), f"{path}, line 3", "'item_id' is empty"
    )


@pytest.mark.parametrize("header", ["user_id", "user_id:string", ":token"])
def test_a_header_without_types(put, header):
    path = put("x.inter", INTER.replace("user_id:token", header))
    refuse(lambda: recbole.read(path), f"{path}, line 1", repr(header), "token_seq")


def test_identical_item_rows_are_dropped_and_counted(put):
    domain = recbole.read(put("x.inter", INTER), put("x.item", ITEM + "a\tAnt\nb\tBee\na\tAnt\n"))
    assert domain.items["key"].tolist() == ["b", "a"]
    assert domain.counts["duplicate_items"] == 3
    assert domain.counts["conflicting_items"] == 0


def test_of_contradicting_item_rows_the_first_is_kept_with_a_warning(put):
    path = put("x.item", ITEM + "c\tCat\na\tAphid\n")
    domain = recbole.read(put("x.inter", INTER), path)
    assert domain.items.set_index("key")["title"].to_dict() == {"a": "Ant", "b": "Bee", "c": "Cat"}
    assert domain.counts["conflicting_items"] == 1
    assert "'a'" in domain.warnings[-1]
    assert "line 5" in domain.warnings[-1]
    assert "line 3" in domain.warnings[-1]


def test_repeated_events_are_kept_and_counted(put):
    domain = recbole.read(put("x.inter", INTER + "u1\ta\t3\nu1\ta\t4\n"))
    assert len(domain.interactions) == 5
    assert domain.counts["duplicate_interactions_kept"] == 1


def test_titles_are_cleaned_and_counted(put):
    item = put("x.item", ITEM.replace("Bee", "<b>Bee</b> &amp;\x07 Co").replace("Ant", "  Ant"))
    domain = recbole.read(put("x.inter", INTER), item)
    assert domain.items["title"].tolist() == ["Bee & Co", "Ant"]
    counted = {key: n for key, n in domain.counts.items() if n and key.startswith("titles")}
    assert counted == {
        "titles_with_markup": 1,
        "titles_with_entities": 1,
        "titles_with_control_characters": 1,
        "titles_with_excess_whitespace": 1,
        "titles_cleaned": 2,
    }


@pytest.mark.parametrize("value", ["\u2014", "$12.99", "nan", "inf", "soon", ""])
def test_a_number_that_nothing_uses_is_missing_and_counted(put, value):
    item = put("x.item", ITEM.replace("token_seq\n", "token_seq\tprice:float\n", 1))
    item.write_text(item.read_text().replace("Bee", f"Bee\t{value}").replace("Ant", "Ant\t1.5"))
    domain = recbole.read(put("x.inter", INTER), item)
    assert domain.items["price"].isna().tolist() == [True, False]
    assert domain.counts["price_missing"] == 1


@pytest.mark.parametrize("separator", [" ", ",", ";", ", "])
@pytest.mark.parametrize("suffix", ["inter", "item"])
def test_another_separator_is_told(put, separator, suffix):
    texts = {"inter": INTER, "item": ITEM}
    texts[suffix] = texts[suffix].replace("\t", separator)
    paths = [put(f"x.{name}", text) for name, text in texts.items()]
    refuse(lambda: recbole.read(*paths), f"x.{suffix}, line 1", "a tab", "recalign prepare table")


def test_a_folder_of_recbole_has_both_files(put, tmp_path):
    put("x.inter", INTER)
    put("x.item", ITEM)
    put("x.user", "user_id:token\nu1\n")
    domain = recbole.read(tmp_path, tmp_path)
    assert len(domain.interactions) == 3
    assert domain.items["key"].tolist() == ["b", "a"]


def test_a_doubled_field_matters_only_where_it_plays_a_role(put):
    text = "user_id:token\titem_id:token\tx:float\tx:token\t\nu\ta\t1\t2\t\n"
    assert recbole.read(put("x.inter", text)).columns["interactions_ignored"] == ["x"]
    for kind in ("float", "token"):
        again = text.replace("x:float", f"user_id:{kind}", 1)
        refuse(lambda again=again: recbole.read(put("x.inter", again)), "'user_id' more than once")
