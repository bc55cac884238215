"""Files and small domains for the tests of the domains room."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

from recalign.domains.assemble import assemble
from recalign.domains.domain import Domain
from recalign.domains.raw import RawDomain


@pytest.fixture
def put(tmp_path) -> Callable[[str, str | bytes], Path]:
    """Writes a file into a temporary folder and returns its path."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def raw() -> Callable[..., RawDomain]:
    """Makes a raw domain of (user, item[, timestamp[, rating]]) rows and of (key, title) rows."""

    def make(events: Sequence[tuple], items: Sequence[tuple[str, str]] | None = None) -> RawDomain:
        names = ["user", "item", "timestamp", "rating"]
        frame = pd.DataFrame(events, columns=names[: len(events[0])], dtype=object)
        if "timestamp" in frame:
            frame["timestamp"] = frame["timestamp"].astype("Int64")
        if "rating" in frame:
            frame["rating"] = frame["rating"].astype("float32")
        table = None
        if items is not None:
            table = pd.DataFrame(items, columns=["key", "title"], dtype=object)
            table[["brand", "categories"]] = ""
        return RawDomain(frame, table)

    return make


@pytest.fixture
def keys_of() -> Callable[[Domain], dict[str, list[str]]]:
    """Every user's events as item keys, oldest first."""

    def keys(domain: Domain) -> dict[str, list[str]]:
        items = domain.items["key"].to_numpy(object)
        return {
            user: items[domain.events[domain.offsets[u] : domain.offsets[u + 1]]].tolist()
            for u, user in enumerate(domain.user_keys)
        }

    return keys


@pytest.fixture
def small(raw) -> Domain:
    """Three users of 5, 3 and 1 events, with times and ratings, over a catalogue of six items."""
    events = [("ann", f"i{n}", n, n / 2) for n in range(5)]
    events += [("bob", "i1", 3, 1.0), ("bob", "i0", 1, 2.0), ("bob", "i4", 2, 3.0)]
    events += [("cid", "i3", 9, 4.0)]
    return assemble(raw(events, [(f"i{n}", f"Item {n}") for n in range(6)]), "small")
