"""A small prepared toyshop, whose tasks are registered under a name of its own."""

import pytest
from click.testing import CliRunner

from recalign import domains
from recalign.cli.prepare import prepare
from recalign.samples.registry import register_domain


@pytest.fixture(scope="session")
def shop(tmp_path_factory) -> domains.Domain:
    """200 users and 80 items, registered as the domain "testshop"."""
    folder = tmp_path_factory.mktemp("data")
    options = ["--users", "200", "--items", "80", "--name", "testshop", "--data_dir", str(folder)]
    result = CliRunner().invoke(prepare, ["toyshop", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    register_domain("testshop", str(folder))
    return domains.load("testshop", folder)
