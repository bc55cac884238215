"""Text clean-up: markup, page script, HTML entities, control characters and white space."""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

# The elements of HTML, past ones too. What no browser takes for one is text: "I <heart> NY".
_ELEMENT = (
    "a|abbr|acronym|address|applet|area|article|aside|audio|b|base|basefont|bdi|bdo|big|blink|"
    "blockquote|body|br|button|canvas|caption|center|cite|code|col|colgroup|data|datalist|dd|del|"
    "details|dfn|dialog|dir|div|dl|dt|em|embed|fieldset|figcaption|figure|font|footer|form|frame|"
    "frameset|h[1-6]|head|header|hgroup|hr|html|i|iframe|img|input|ins|kbd|label|legend|li|link|"
    "main|map|mark|marquee|menu|meta|meter|nav|nobr|noframes|noscript|object|ol|optgroup|option|"
    "output|p|param|picture|pre|progress|q|rp|rt|ruby|s|samp|script|search|section|select|slot|"
    "small|source|span|strike|strong|style|sub|summary|sup|svg|table|tbody|td|template|textarea|"
    "tfoot|th|thead|time|title|tr|track|tt|u|ul|var|video|wbr"
)
_ATTRIBUTE = r"""[\w:.@-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>=`]+)"""
_FLAG = "allowfullscreen|async|autoplay|checked|controls|defer|disabled|hidden|loop|nowrap|selected"
_INSIDE = rf"""(?:[\s/]*(?:(?<=["'\s/]){_ATTRIBUTE}|(?<=[\s/])(?:{_FLAG})(?=[\s/>])))*[\s/]*"""
_MARKUP = re.compile(
    rf"""<!--.*?(?:-->|\Z)
      | <!(?:DOCTYPE|\[)[^>]*> | \]\]> | <\?[a-z][^>]*>
      | <(?P<hidden>script|style|template|noscript|iframe|svg|math){_INSIDE}>
        .*?(?:</(?P=hidden)\s*>|\Z)
      | </?(?:{_ELEMENT}){_INSIDE}>  # an element
      | <[a-z]\w*[:-][\w:-]*>(?=[^<]*</) | </[a-z]\w*[:-][\w:-]*>  # a custom one that is closed
      | </?[a-z][\w:-]*\s{_INSIDE}(?<=["'])\s*/?>  # any name, with attributes
      | <(?:{_ELEMENT})\s+[\w:-]+=[^<>]*\Z  # cut off""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
# With the semicolon only: "R&D" and "AT&T" are names, and HTML would read "&para" without one.
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# A text that begins as a program or a style sheet does is one: pages whose scraper took what stood
# in the place of the title.
_SCRIPT = re.compile(
    rf"""\s*(?:/\*.*?\*/\s*|//[^\n]*\n\s*)*+(?:
        (?:var|let|const)\s+[\w$]+\s*(?:=[^=][^;]*[;(\[{{]|;)
      | [\w$.]+\s*=\s*[(+]*(?:new|function)\b[^;{{]*[;{{]
      | [\w$.]+\s*=\s*[\w$.]+\s*\|\|[^;]*;
      | (?:async\s+)?[!(;+\s]*function\s*[\w$]*\s*\([^()]*\)\s*\{{
      | \(?\([^()]*\)\s*=>\s*[{{(]
      | (?:window|document|navigator|console|jQuery|amznJQ|\$)\.[\w$.]+\s*[=(][^;{{]*[;{{]
      | (?:jQuery|\$)\((?:document|window|function|["']) | P\.(?:when|now|register)\(
      | (?:if|for|while)\s*\(.*\)\s*\{{ | try\s*\{{
      | "use\ strict" | \{{\s*"@\w+"\s*:
      | @(?:import|charset)\s[^;]*; | @(?:media|font-face|keyframes)\b[^{{]*\{{
      | (?:[.\#*][\w-]*|(?:{_ELEMENT})\b)[^{{}};]*\{{\s*[a-z-]+\s*:[^{{}}]*\}}
      | [^{{}};]+\{{\s*[a-z-]+\s*:[^{{}};]+;[^{{}}]*\}}
    )""",
    re.DOTALL | re.VERBOSE,
)
# C0 and C1 controls, and characters that are invisible: soft hyphen, zero-width space, line and
# paragraph separators, word joiner, invisible operators, what Unicode gave up, byte order mark.
# Tab and line ends count as white space; joiners and marks of direction are a part of words.
_CONTROL = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u2028\u2029\u2060-\u2064\u206a-\u206f\ufeff]+"
)
_SPACES = re.compile(r"\s+")
# Invisible at the end of a name: beside those, joiners, and marks of the direction of writing.
_ENDS = "\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"
_AROUND = re.compile(rf"\A[\s{_ENDS}]+|[\s{_ENDS}]+\Z")
# What a clean text cannot hold: a quick test, so that clean texts cost one search.
_SUSPECT = re.compile(
    "[<&{;\x00-\x1f\x7f-\xa0\xad\u1680\u2000-\u200b\u2028\u2029\u202f\u205f-\u2064\u206a-\u206f\u3000"
    "\ufeff]"
    f"|^ | $|  |]]>|^[{_ENDS}]+$"
)

KINDS = ("markup", "script", "entities", "control_characters", "excess_whitespace")


def trim(name: str) -> str:
    """An id or the name of a column, without white space and what nobody sees around it.

    In Unicode's composed form, of which a Mac's file names have the other.
    """
    if name.isascii() and name.isprintable():
        return name.strip()
    return _AROUND.sub("", unicodedata.normalize("NFC", name))


def clean(text: str) -> tuple[str, tuple[str, ...]]:
    """Cleans one text.

    Tags are removed, and with scripts and styles what they hold; a text that is a script leaves
    nothing. Character references are resolved (also twice-encoded ones, as in Amazon's
    `&amp;quot;`), control characters replaced by a space, runs of white space (line ends too) by
    one space.

    Returns:
      The clean text and which of `KINDS` it needed.
    """
    if not _SUSPECT.search(text):
        return text, ()
    stripped, kinds = _resolve(text)
    visible = _CONTROL.sub(" ", stripped)
    if visible != stripped:
        kinds.append("control_characters")
        visible = _SPACES.sub(" ", visible).strip()
    spaced = _SPACES.sub(" ", visible).strip()
    if spaced != visible:
        kinds.append("excess_whitespace")
    if spaced and not _AROUND.sub("", spaced):  # marks of direction and the like alone
        return "", tuple({*kinds, "control_characters"})
    return spaced, tuple(kinds)


def _resolve(text: str) -> tuple[str, list[str]]:
    """Without tags, scripts and entities, and which of these there were."""
    kinds = dict.fromkeys(KINDS[:3], False)
    original = text
    # An entity may hide a tag or another entity: "&lt;b&gt;", "&amp;amp;".
    for _ in range(3):
        kinds["script"] |= any(match["hidden"] for match in _MARKUP.finditer(text))
        without = _MARKUP.sub(" ", text)
        resolved = _ENTITY.sub(lambda match: html.unescape(match[0]), without)
        kinds["markup"] |= without != text
        kinds["entities"] |= resolved != without
        if resolved == text:
            break
        text = resolved
    if _SCRIPT.match(text):
        return "", ["script"]
    if kinds["markup"]:
        # A removed tag leaves a space that is not the text's own.
        text = _SPACES.sub(" ", text).strip()
    return text, [kind for kind, found in kinds.items() if found] if text != original else []


def clean_all(texts: Iterable[str]) -> tuple[list[str], Counter]:
    """Cleans many texts; also counts how many needed each of `KINDS`, and "cleaned" at all."""
    cleaned, counts = list(texts), Counter()
    array = pa.array(cleaned, pa.large_string())
    for row in pc.indices_nonzero(pc.match_substring_regex(array, _SUSPECT.pattern)).to_pylist():
        cleaned[row], kinds = clean(cleaned[row])
        counts.update(kinds)
        counts["cleaned"] += bool(kinds)
    return cleaned, counts
