"""`recalign train`: options that go together."""

import pytest
from click.testing import CliRunner

from recalign.cli import recalign
from recalign.errors import UserError


@pytest.mark.parametrize("option", ["--accept_changes", "--profile=2:1"])
def test_a_dry_run_takes_nothing_that_is_about_training(option):
    arguments = ["train", "--dry_run", option, "--gin_file=nowhere.gin"]
    result = CliRunner().invoke(recalign, arguments)
    assert isinstance(result.exception, UserError), result.exception
    assert str(result.exception).startswith(f"{option.partition('=')[0]} is about training")
