"""Delimited text: what is read, and what is refused with file and line."""

import csv
import gzip
import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.domains.readers import delimited
from recalign.errors import UserError


def rows(source):
    return source.frame.to_numpy().tolist()


def test_fields_are_text_and_empty_fields_stay_empty(put):
    source = delimited.read(put("a.tsv", "u\ti\tt\n1\tNA\t\n02\tnull\t7\n"), "\t", False)
    assert list(source.frame.columns) == ["u", "i", "t"]
    assert rows(source) == [["1", "NA", ""], ["02", "null", "7"]]


def test_byte_order_mark_line_ends_and_blank_lines(put):
    source = delimited.read(put("a.tsv", b"\xef\xbb\xbfu\ti\r\n\r\n1\t2\r\n   \n3\t4"), "\t", False)
    assert rows(source) == [["1", "2"], ["3", "4"]]
    assert source.place(1).endswith("a.tsv, line 5")


def test_unquoted_text_takes_quotes_and_carriage_returns_literally(put):
    source = delimited.read(put("a.tsv", 'i\tt\n1\t"24" mirror\n2\tone\rtwo\n'), "\t", False)
    assert rows(source) == [["1", '"24" mirror'], ["2", "one\rtwo"]]


def test_lines_of_an_old_mac(put):
    for quoted in (True, False):
        assert rows(delimited.read(put("a.tsv", "i\tt\r1\tx\r2\ty\r"), "\t", quoted)) == [
            ["1", "x"],
            ["2", "y"],
        ]


@pytest.mark.parametrize("more", ["", '4\t"x y" z\n'])
def test_a_quote_that_a_later_row_of_tabs_closes_is_of_the_title(put, more):
    text = f'i\tt\n1\t"Open\n2\t\n3\t5"\n{more}'
    expected = [["1", '"Open'], ["2", ""], ["3", '5"'], *([["4", '"x y" z']] if more else [])]
    assert rows(delimited.read(put("a.tsv", text), "\t", True)) == expected
    quoted = 'i\tt\tn\n1\t"a\nb"\t2\n3\t"c\td"\t4\n'
    assert rows(delimited.read(put("b.tsv", quoted), "\t", True)) == [
        ["1", "a\nb", "2"],
        ["3", "c\td", "4"],
    ]


def test_quoted_fields_may_hold_separators_and_line_ends(put):
    text = 'i,t\n1,"a, ""b""\nand c"\n\n2,d\n'
    source = delimited.read(put("a.csv", text), ",", True)
    assert rows(source) == [["1", 'a, "b"\nand c'], ["2", "d"]]
    assert source.place(1).endswith("line 5")


@pytest.mark.parametrize("name", ["a.tsv.gz", "a.tsv"])
def test_gzip_is_known_by_its_content(put, name):
    path = put(name, gzip.compress(b"u\ti\n1\t2\n"))
    assert rows(delimited.read(path, "\t", False)) == [["1", "2"]]


def refuse(path, *words, quoted=False):
    with pytest.raises(UserError) as error:
        delimited.read(path, "," if quoted else "\t", quoted)
    message = str(error.value)
    for word in (str(path), *words):
        assert word in message


def test_long_fields_are_read_and_the_process_keeps_its_limit(put):
    limit = csv.field_size_limit()
    long = "a" * (limit + 1)
    source = delimited.read(put("a.csv", f'x,y\n"{long}",\n'), ",", True)
    assert rows(source) == [[long, ""]]
    assert csv.field_size_limit() == limit


def test_truncated_and_damaged_gzip(put):
    whole = gzip.compress(b"u\ti\n" + b"1\t2\n" * 500)
    refuse(put("a.gz", whole[:-12]), "truncated")
    refuse(put("b.gz", whole[:12] + b"\x00\xff\x00\xff" + whole[16:]), "damaged")


def test_empty_files(put):
    refuse(put("a.tsv", ""), "empty")
    refuse(put("b.tsv", "\n \n"), "empty")
    refuse(put("c.tsv.gz", gzip.compress(b"")), "empty")
    refuse(put("e.tsv", b"\xef\xbb\xbf" * 2), "empty")


def test_absent_file(tmp_path):
    refuse(tmp_path / "none.tsv", "No such file")


def test_bytes_that_are_not_utf8(put):
    refuse(put("a.tsv", b"u\ti\n1\t2\ncaf\xe9\t3\n"), "line 3", "0xe9", "not UTF-8")


def test_bytes_that_are_no_text_at_all(put):
    refuse(put("a.csv", b"\x80\x05\x95\0\0\xff"), "not a file of text")


def test_too_many_and_too_few_fields(put):
    refuse(put("a.tsv", "u\ti\n1\t2\n3\t4\t5\n"), "line 3 has 3 fields", "header has 2")
    refuse(put("b.tsv", "u\ti\tt\n1\t2\t3\n\n4\t5\n"), "line 4 has 2 fields", "header has 3")
    refuse(put("c.tsv", "u\ti\n1\t2\t3\n4\t5\t6\n"), "line 2 has 3 fields", "header has 2")


def test_a_column_without_a_name_is_left_out(put):
    """It is the index that pandas writes, or what a separator at the end of each line makes."""
    source = delimited.read(put("a.csv", ",u,i,\n0,1,2,\n1,3,4,\n"), ",", True)
    assert list(source.frame.columns) == ["u", "i"]
    assert rows(source) == [["1", "2"], ["3", "4"]]


def test_a_name_that_stands_twice_is_noted(put):
    source = delimited.read(put("a.tsv", "u\tx\tx\n1\t2\t3\n"), "\t", False)
    assert rows(source) == [["1", "2"]]
    assert [*source.doubled] == ["x"]


def test_a_quote_that_is_never_closed(put):
    refuse(put("a.csv", 'u,i\n1,"2\n3,4\n'), "double quote", quoted=True)


@pytest.mark.parametrize(
    "text",
    [
        'i,t,b\n1,x,y\n2,"Weird Al,B\n3,TV 27",C\n4,z,\n',
        'i,t,b\r\n1,x,y\r\n2,"Weird Al,B\r\n3,Foo,\r\n4,TV 27",C\r\n',
        'i;t\nB0;x\nB1;"Weird Al\nB2;Foo\nB3;TV 27"\n',
        'u|i|t\nu-x|a|1\n"u-a|b|1\nu-b|a|2\nu-c"|b|2\n',
        'i,t,b\n1,x,y\n2,"a, b","Weird Al\n3,Foo,B\n4,Bar,C"\n',
    ],
)
def test_a_quote_that_a_later_row_closes_takes_in_no_rows_without_a_word(put, text):
    refuse(put("a.csv", text), "line 3", "double quote", "rows after it", quoted=True)


@pytest.mark.parametrize(
    "description",
    ["Soft, red\nbig, blue\ntwo, three", "Sizes:\n10,20\n11,21", "A\n\nB", "x,\ny,z\nv", "1\n2\n3"],
)
def test_a_description_of_several_lines_is_one_field(put, description):
    for header, row in (("i,t,d", "1,a,{}"), ("i,d,t", "1,{},a"), ("d,i,t", "{},1,a")):
        text = f"{header}\n2,b,c\n{row.format(chr(34) + description + chr(34))}\n"
        source = delimited.read(put("a.csv", text), ",", True)
        assert source.frame["d"].tolist()[1] == description


@given(
    st.lists(
        st.lists(st.text(st.sampled_from('"ab,\n '), max_size=6), min_size=3, max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_what_the_csv_module_writes_is_read_as_it_was(tmp_path_factory, records):
    """Quoting what begins with a quote but is not in quotes leaves proper quotes alone."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["a", "b", "c"], *records])
    path = tmp_path_factory.mktemp("x") / "x.csv"
    path.write_text(text.getvalue())

    def stripped(rows):  # spaces around fields are no part of them, as elsewhere
        return [[field.strip(" ") for field in row] for row in rows]

    assert stripped(rows(delimited.read(path, ",", True))) == stripped(records)


@given(st.lists(st.text(st.sampled_from("ab,\\ \n"), max_size=8), min_size=1, max_size=5))
def test_quotes_that_a_backslash_escapes(tmp_path_factory, titles):
    # A quote before a separator could end the field; there the format's own rule goes first.
    titles = [f'say "x{title}x" and, y' for title in titles]
    escaped = [title.replace("\\", "\\\\").replace('"', '\\"') for title in titles]
    path = tmp_path_factory.mktemp("x") / "x.csv"
    path.write_text("".join(f"{line}\n" for line in ["n,t", *(f'1,"{t}"' for t in escaped)]))
    assert [title for _, title in rows(delimited.read(path, ",", True))] == titles


@given(st.lists(st.text(st.sampled_from('"ab '), min_size=1, max_size=8), min_size=1))
def test_a_title_with_quotes_of_its_own_keeps_them(tmp_path_factory, titles):
    titles = [f'"{title}" by "x"' for title in titles]
    path = tmp_path_factory.mktemp("x") / "x.tsv"
    path.write_text("".join(f"{line}\n" for line in ["t\tn", *(f"{t}\t1" for t in titles)]))
    assert [title for title, _ in rows(delimited.read(path, "\t", True))] == titles


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_first_line_of_a_spreadsheet_tells_the_separator(put, separator, end):
    lines = [f"sep={separator}", f"u{separator}i", f"1{separator}2", f"3{separator}"]
    path = put("a.csv", "\ufeff" + end.join(lines))
    source = delimited.read(path, ",", True)
    assert rows(source) == [["1", "2"], ["3", ""]]
    assert source.place(1) == f"{path}, line 4"


@pytest.mark.parametrize(
    "text",
    [
        "u,i,t\n1,2,3,\n4,5,6,\n",  # a separator ends each row
        "u,i,t\n1,2,3,\n4,5,6\n",  # or some
        "u,i,t,\n1,2,3\n4,5,6\n",  # or the header
        '"u","i","t"\n"1",1,2,3\n"2",4,5,6\n',  # R's names of rows
        "u i t\n1 1 2 3\n2 4 5 6\n",
    ],
)
def test_a_field_more_or_less_than_the_header_that_has_no_name(put, text):
    source = delimited.read(put("a.csv", text), ",", True)
    assert list(source.frame.columns) == ["u", "i", "t"]
    assert rows(source) == [["1", "2", "3"], ["4", "5", "6"]]


@pytest.mark.parametrize(("mark", "quoted"), [("", False), ("", True), ("\n", True)])
def test_a_field_without_a_name_of_a_row_longer_than_what_is_looked_at_first(put, mark, quoted):
    word = mark.join(["many words"] * 9_000)
    text = f'"{word}"' if quoted else word
    source = delimited.read(put("a.csv", f"u\ti\n1\t{text}\t\n2\tb\t\n"), "\t", quoted)
    assert rows(source) == [["1", word], ["2", "b"]]


def test_a_misfit_shows_the_header_that_was_taken_for_one(put):
    path = put("a.csv", "# exported by X\n\nu,i\n1,2\n")
    refuse(path, "line 3 has 1 fields where the header has 4: '# exported by X'", quoted=True)
    refuse(put("b.csv", "u,i\n1,2,3\n4,5,6\n"), "line 2 has 3 fields", "'u,i'", quoted=True)
    refuse(put("c.csv", "u,i,t\n1,2,3,\n4,5,6,7\n"), "line 2 has 4 fields", quoted=True)


def test_zeros_in_the_header_are_no_text(put):
    refuse(put("a.db", b"some format\0\0\0\n"), "not a file of text", quoted=True)


FIELDS = st.text(st.sampled_from(["a", '"', " ", ",", "\n", "\t", "é", "1", ";"]), max_size=4)


@given(
    st.lists(st.lists(FIELDS | st.just('"a,b"'), min_size=1, max_size=3), min_size=1, max_size=5),
    st.sampled_from([",", "\t", ";"]),
    st.booleans(),
)
def test_what_is_left_to_arrow_is_what_pandas_reads(records, separator, quoted):
    data = "\n".join(map(separator.join, records)).encode()
    found = delimited._parse_plain(data, separator, quoted)
    if found is not None:
        whole = delimited._quote_whole(data, separator) if quoted else data
        expected = delimited._parse_any(whole, separator, quoted)
        pd.testing.assert_frame_equal(found.set_axis(range(found.shape[1]), axis=1), expected)


def test_a_plain_table_is_left_to_arrow():
    plain = b'a,"b",c\n1,"2\n3",\n"x,y",,"z"\n'
    found = delimited._parse_plain(plain, ",", True)
    assert found.to_numpy().tolist() == [["a", "b", "c"], ["1", "2\n3", ""], ["x,y", "", "z"]]
    for odd in (b'1,"2"3,', b"1, 2,3", b"1,2", b"1,2,3\r", b'1,"a""b",3', b"\n1,2,3"):
        assert delimited._parse_plain(plain + odd + b"\n", ",", True) is None
