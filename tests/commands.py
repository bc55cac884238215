"""Commands of recalign, run within the process of a test."""

from click.testing import CliRunner

from recalign.cli import recalign


def run(*arguments) -> str:
    """What a command prints; one that fails raises what it raised."""
    result = CliRunner().invoke(recalign, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout
