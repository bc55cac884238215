"""Small prepared domains, whose tasks are registered under names of their own."""

import numpy as np
import pytest

from recalign import domains
from recalign.domains import toyshop
from tests.samples.shops import prepared


@pytest.fixture(scope="session")
def shop(tmp_path_factory) -> domains.Domain:
    """200 users and 80 items, registered as the domain "testshop"."""
    folder = tmp_path_factory.mktemp("data")
    return prepared("testshop", folder, "toyshop", "--users", "200", "--items", "80")


@pytest.fixture(scope="session")
def rated(tmp_path_factory) -> domains.Domain:
    """100 users and 60 items with ratings by half stars, registered as "ratedshop"."""
    folder = tmp_path_factory.mktemp("rated")
    raw = toyshop.generate(users=100, items=60)
    stars = np.random.default_rng(0).integers(1, 11, len(raw.interactions)) / 2
    raw.interactions.assign(rating=stars).to_csv(folder / "events.csv", index=False)
    raw.items.to_csv(folder / "items.csv", index=False)
    tables = ["--interactions", folder / "events.csv", "--items", folder / "items.csv"]
    columns = ["--catalogue_item_column", "key", "--vocab_size", "500"]
    return prepared("ratedshop", folder, "table", *map(str, tables), *columns)
