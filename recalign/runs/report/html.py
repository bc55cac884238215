"""HTML from plain values: whatever is not `Html` already is text, and is escaped."""

import html
from collections.abc import Iterable


class Html(str):
    """Text that is markup."""

    __slots__ = ()


Content = str | int | Iterable["Content"] | None


def tag(name: str, /, *content: Content, **attributes: str | int | bool | None) -> Html:
    """An element.

    Args:
      name: "p".
      content: texts, elements, or lists of them; None is nothing.
      attributes: by name, `class_` for class and `aria_label` for aria-label; None and False are
        left out, True has no value.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inner = join(content)
    return Html(f"<{name}{written}>" if name == "meta" else f"<{name}{written}>{inner}</{name}>")


def join(content: Content) -> Html:
    """What stands one after the other."""
    if content is None:
        return Html("")
    if isinstance(content, Html):
        return content
    if isinstance(content, str | int):
        return Html(html.escape(str(content)))
    return Html("".join(map(join, content)))


def table(head: Iterable[Content], body: Iterable[Iterable[Content]], caption: str) -> Html:
    """A table, the first cell of each row its heading; wide ones scroll within the page."""
    rows = [
        tag("tr", tag("th", first, scope="row"), [tag("td", cell) for cell in cells])
        for first, *cells in body
    ]
    made = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", [tag("th", cell, scope="col") for cell in head])),
        tag("tbody", rows),
    )
    return tag("div", made, class_="scroll", role="region", aria_label=caption, tabindex=0)


def section(heading: str, *content: Content) -> Html | None:
    """A section; None where there is nothing to show under its heading."""
    inner = join(content)
    return tag("section", tag("h2", heading), inner) if inner else None
