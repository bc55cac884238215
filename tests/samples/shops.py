"""Prepares domains from the command line and registers them."""

from click.testing import CliRunner

from recalign import domains
from recalign.cli.prepare import prepare
from recalign.samples.registry import register_domain


def prepared(name: str, folder, *options: str) -> domains.Domain:
    options = [*options, "--name", name, "--data_dir", str(folder)]
    result = CliRunner().invoke(prepare, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    register_domain(name, str(folder))
    return domains.load(name, folder)
