"""Text clean-up: markup, HTML entities, control characters and white space."""

import html
import re
from collections import Counter
from collections.abc import Iterable

# "<3" and "a < b" are text; a tag starts with a letter, "/" or "!".
_TAG = re.compile(r"<!--.*?-->|</?[A-Za-z][^<>]*>", re.DOTALL)
# With the semicolon only: "R&D" and "AT&T" are names, and HTML would read "&para" without one.
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# C0 and C1 controls, and characters that are invisible: soft hyphen, zero-width space, word joiner,
# byte order mark, line and paragraph separators. Tab and line ends count as white space.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u2028\u2029\u2060\ufeff]+")
_SPACES = re.compile(r"\s+")
# What a clean text cannot hold: a quick test, so that clean texts cost one search.
_SUSPECT = re.compile(
    "[<&\x00-\x1f\x7f-\xa0\xad\u1680\u2000-\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]"
    "|^ | $|  "
)

KINDS = ("markup", "entities", "control_characters", "excess_whitespace")


def clean(text: str) -> tuple[str, tuple[str, ...]]:
    """Cleans one text.

    Tags are removed, character references resolved (also twice-encoded ones, as in Amazon's
    `&amp;quot;`), control characters replaced by a space, runs of white space (line ends too) by
    one space.

    Returns:
      The clean text and which of `KINDS` it needed.
    """
    if not _SUSPECT.search(text):
        return text, ()
    kinds = []
    stripped, references = _resolve(text)
    if stripped != text:
        kinds += [kind for kind, found in zip(KINDS, references, strict=False) if found]
    visible = _CONTROL.sub(" ", stripped)
    if visible != stripped:
        kinds.append("control_characters")
        visible = _SPACES.sub(" ", visible).strip()
    spaced = _SPACES.sub(" ", visible).strip()
    if spaced != visible:
        kinds.append("excess_whitespace")
    return spaced, tuple(kinds)


def _resolve(text: str) -> tuple[str, tuple[bool, bool]]:
    """Without tags and entities; whether there were tags, and entities."""
    tags = entities = False
    # An entity may hide a tag or another entity: "&lt;b&gt;", "&amp;amp;".
    for _ in range(3):
        without = _TAG.sub(" ", text)
        resolved = _ENTITY.sub(lambda match: html.unescape(match[0]), without)
        tags, entities = tags or without != text, entities or resolved != without
        if resolved == text:
            break
        text = resolved
    if tags:
        # A removed tag leaves a space that is not the text's own.
        text = _SPACES.sub(" ", text).strip()
    return text, (tags, entities)


def clean_all(texts: Iterable[str]) -> tuple[list[str], Counter]:
    """Cleans many texts; also counts how many needed each of `KINDS`, and "cleaned" at all."""
    cleaned, counts = [], Counter()
    for text in texts:
        result, kinds = clean(text)
        cleaned.append(result)
        counts.update(kinds)
        counts["cleaned"] += bool(kinds)
    return cleaned, counts
