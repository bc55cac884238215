"""Small prepared domains, whose tasks are registered under names of their own."""

import pytest

from recalign import domains
from tests.samples.shops import prepared, prepared_with_ratings


@pytest.fixture(scope="session")
def shop(tmp_path_factory) -> domains.Domain:
    """200 users and 80 items, registered as the domain "testshop"."""
    folder = tmp_path_factory.mktemp("data")
    return prepared("testshop", folder, "toyshop", "--users", "200", "--items", "80")


@pytest.fixture(scope="session")
def rated(tmp_path_factory) -> domains.Domain:
    """100 users and 60 items with ratings by half stars, registered as "ratedshop"."""
    folder = tmp_path_factory.mktemp("rated")
    return prepared_with_ratings("ratedshop", folder, folder)
