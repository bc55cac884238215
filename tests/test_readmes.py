"""What READMEs say can be done: their links lead somewhere, their commands have those options."""

import re
import shlex
from pathlib import Path

import click
import pytest

from recalign.cli import recalign

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted(path for path in ROOT.glob("*/README.md") if not path.parent.name.startswith(".")),
    ROOT / "tests" / "benchmarks" / "README.md",
]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def commands(text: str) -> list[list[str]]:
    """Every call of recalign in blocks of shell commands, in words."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("recalign ")]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page):
    found = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    for link in (link for link in found if "://" not in link):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_have_the_options_that_are_given(page):
    for _, *words in commands(page.read_text()):
        command: click.Command = recalign
        while isinstance(command, click.Group) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert not isinstance(command, click.Group), words
        known = {name for parameter in command.params for name in parameter.opts}
        for word in words:
            if word.startswith("--") and not word.startswith("--gin."):
                assert word.partition("=")[0] in known, (command.name, word)
        files = [w.partition("=")[2] for w in words if w.startswith("--gin_file=")]
        for file in files:
            assert (ROOT / "gin" / file).exists() or "/" in file, file


def test_there_are_commands():
    assert len([call for page in PAGES for call in commands(page.read_text())]) > 15
