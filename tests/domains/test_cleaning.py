"""Texts: what is cleaned, what is left alone."""

import html.entities
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
        ("<a href='x>y' title=\"<\">Soap</a><BR CLEAR=ALL>", "Soap", {"markup"}),
        ('<div class="a"id="b">Soap', "Soap", {"markup"}),
        ("<input disabled value=1>Soap", "Soap", {"markup"}),
        ("<a-popover data-x='1'>Soap</a-popover><o:p></o:p>", "Soap", {"markup"}),
        ('<blink2 class="x">Soap', "Soap", {"markup"}),
        ("<!DOCTYPE html><?xml version='1.0'?><![CDATA[Soap]]>", "", {"markup"}),
        ("Soap <span class='x", "Soap", {"markup"}),
        ("Soap <!-- new", "Soap", {"markup"}),
        ("<script>var a = '<b>';</script><span>Soap</span>", "Soap", {"markup", "script"}),
        ("<SCRIPT async src=x></SCRIPT>Soap", "Soap", {"markup", "script"}),
        ("<style media='print'>.a > b { c: d }</style>Soap", "Soap", {"markup", "script"}),
        ("<noscript><img src='x'></noscript>Soap", "Soap", {"markup", "script"}),
        ("<svg viewBox='0 0 1 1'><g><path d='M0'/></g><title>x</title></svg>Soap", "Soap",
         {"markup", "script"}),
        ("<!--[if IE]><p>old</p><![endif]--><![if !IE]>Soap<![endif]>", "Soap", {"markup"}),
        ("Soap<script>cut(off", "Soap", {"markup", "script"}),
        ("&lt;script&gt;a()&lt;/script&gt;Soap", "Soap", {"markup", "script", "entities"}),
        ("\n", "", {"excess_whitespace"}),
        ("\u200f\u202b\u202c", "", {"control_characters"}),
        ("&rlm;&lrm;", "", {"control_characters", "entities"}),
    ],
)  # fmt: skip
def test_dirty_texts(dirty, clean, kinds):
    assert cleaning.clean(dirty) == (clean, cleaning.clean(dirty)[1])
    assert set(cleaning.clean(dirty)[1]) == kinds


@pytest.mark.parametrize(
    "text",
    [
        "", "I <3 You", "AT&T R&D", "a < b > c", "&copy2 &para", "Crème brûlée", "雪 ☃", "5 > 4",
        "x<y and y>z", "I <heart> NY", "C++ <vector> by <T>", "<b and c>", "Guess <?> what", "<-->",
        "Var (live); B-sides", "Function (Deluxe); 2 discs", "P.S. I Love You; (a novel)",
        "Book {Vol: 2}", "If (you) dare {x}", "Window. Door; (set)", "Author <a.b@example.com>",
        "$5 {off}", "let it be;",
    ],
)  # fmt: skip
def test_texts_that_only_look_dirty(text):
    assert cleaning.clean(text) == (text, ())


@pytest.mark.parametrize(
    "text",
    [
        "var aPageStart = (new Date()).getTime();\nvar ue_t0 = ue_t0 || +new Date();",
        "let x = 1;",
        "aPageStart = (new Date()).getTime();",
        "ue_t0 = ue_t0 || +new Date();",
        "window.ue_ihb = (window.ue_ihb || 0) + 1;",
        "window.onload = function () { x(); }",
        "document.write('<b>x</b>');",
        "(function (a, b) { a(b); })(window);",
        "!function(){ }();",
        "async function f() { }",
        "$(document).ready(function(){ });",
        "P.when('A').execute(function (A) { });",
        "if (window.x) { y(); }",
        "for (i = 0; i < 3; i++) { }",
        "try { x } catch (e) { }",
        "/* ours */ // too\nvar x = 1;",
        ".nav > a:hover { color: red }",
        "body{margin:0}",
        "@media print { .a { b: c } }",
        '@import url("x.css");',
        '{"@context": "http://schema.org", "@type": "Product"}',
        "var a = &quot;b&quot;;",
    ],
)
def test_a_text_that_is_page_script_or_style_leaves_nothing(text):
    clean, kinds = cleaning.clean(text)
    assert clean == ""
    assert "script" in kinds


@given(st.text(st.sampled_from("<>!-/ ab=\"'p&;{}(:.*$\n"), max_size=60).map(lambda t: t * 300))
def test_hostile_texts_take_no_time(text):
    """What backtracks exponentially, or in the square of such a length, would not come back."""
    cleaning.clean(text)


def test_each_kind_is_counted_once_a_text():
    texts, counts = cleaning.clean_all(["<b>a</b> <i>b</i>", "c &amp; d", "<u>e</u> &lt;", "f"])
    assert texts == ["a b", "c & d", "e <", "f"]
    assert counts["cleaned"] == 3
    assert counts["markup"] == 2
    assert counts["entities"] == 2


# Joiners and the marks of the direction of writing are a part of words.
KEPT = "\u200c\u200d\u200e\u200f"


def is_visible(text):
    return all(character.isprintable() or character in KEPT for character in text)


@pytest.mark.parametrize("invisible", [*"\u200b\u2060\u2061\u2062\u2063\u2064\u206a\u206f\ufeff"])
def test_what_nobody_sees_is_a_space(invisible):
    assert cleaning.clean(f"Pen{invisible}Red") == ("Pen Red", ("control_characters",))
    assert cleaning.clean(f"Pen&#{ord(invisible)};Red")[0] == "Pen Red"


def test_no_entity_leaves_what_nobody_sees():
    for name in html.entities.html5:
        assert is_visible(cleaning.clean(f"Pen &{name} Red")[0]), name


@given(st.text(st.sampled_from(string.ascii_letters + " \t\n<>&;#/\x00\u200b\xa0"), max_size=30))
def test_a_clean_text_has_no_space_to_spare_and_no_control(text):
    clean, kinds = cleaning.clean(text)
    assert clean == " ".join(clean.split())
    assert is_visible(clean)
    assert bool(kinds) == (clean != text)
