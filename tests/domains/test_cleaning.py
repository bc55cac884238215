"""Texts: what is cleaned, what is left alone."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.domains import cleaning


@pytest.mark.parametrize(
    ("dirty", "clean", "kinds"),
    [
        ("Salt &amp; Pepper", "Salt & Pepper", {"entities"}),
        ("24&quot; &#39;Deluxe&#x27;", "24\" 'Deluxe'", {"entities"}),
        ("Tom &amp;amp; Jerry", "Tom & Jerry", {"entities"}),
        ("<b>Bold</b> Soap<br/>200 ml", "Bold Soap 200 ml", {"markup"}),
        ("Soap <!-- new -->bar", "Soap bar", {"markup"}),
        ("&lt;i&gt;Soap&lt;/i&gt;", "Soap", {"markup", "entities"}),
        ("Soap\x00\x07bar", "Soap bar", {"control_characters"}),
        ("Soap\u200b bar\ufeff", "Soap bar", {"control_characters"}),
        ("  Soap\t bar\r\n2 ", "Soap bar 2", {"excess_whitespace"}),
        ("Soap\xa0bar", "Soap bar", {"excess_whitespace"}),
        ("Soap\u3000bar", "Soap bar", {"excess_whitespace"}),
        ("<p> </p>", "", {"markup"}),
        ("\n", "", {"excess_whitespace"}),
    ],
)
def test_dirty_texts(dirty, clean, kinds):
    assert cleaning.clean(dirty) == (clean, cleaning.clean(dirty)[1])
    assert set(cleaning.clean(dirty)[1]) == kinds


@pytest.mark.parametrize(
    "text",
    ["", "I <3 You", "AT&T R&D", "a < b > c", "&copy2 &para", "Crème brûlée", "雪 ☃", "5 > 4"],
)
def test_texts_that_only_look_dirty(text):
    assert cleaning.clean(text) == (text, ())


def test_each_kind_is_counted_once_a_text():
    texts, counts = cleaning.clean_all(["<b>a</b> <i>b</i>", "c &amp; d", "<u>e</u> &lt;", "f"])
    assert texts == ["a b", "c & d", "e <", "f"]
    assert counts["cleaned"] == 3
    assert counts["markup"] == 2
    assert counts["entities"] == 2


@given(st.text(st.sampled_from(string.ascii_letters + " \t\n<>&;#/\x00\u200b\xa0"), max_size=30))
def test_a_clean_text_has_no_space_to_spare_and_no_control(text):
    clean, kinds = cleaning.clean(text)
    assert clean == " ".join(clean.split())
    assert clean.isprintable()
    assert bool(kinds) == (clean != text)
