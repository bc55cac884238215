"""What READMEs say can be done: their links lead somewhere, their commands have those options.

And each command is run by a test, or it is said why by none: `RUN_BY`.
"""

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


# By page: how commands begin, and the tests that run them or, in brackets, why none does.
_LONG = "(it trains for minutes: its last run is told in tests/benchmarks/README.md)"
_ALL_TESTS = "(it is what runs the tests)"
RUN_BY = {
    "README.md": {
        "./launch/demo.sh": _LONG,
        "./launch/test.sh": _ALL_TESTS,
        "recalign prepare table": "tests/runs/test_readme.py",
        "recalign tasks": "tests/runs/test_readme.py",
        "recalign train --gin_file=beauty.gin": "tests/runs/test_readme.py",
        "recalign serve": "tests/serving/test_page.py",
        "recalign train --dry_run": "tests/engine/training/test_dry_run.py",
        "launch/tpu_vm.py": "tests/launch/test_tpu_vm.py",
    },
    "CONTRIBUTING.md": {
        "./launch/test.sh": _ALL_TESTS,
        "ruff check . &&": "(it is what CI's first job runs)",
    },
    "gin/README.md": {"--gin.": "tests/runs/test_readme.py"},
    "launch/README.md": {
        "gcloud": "(needs an account with billing)",
        ". launch/environment.sh && environment": "(installs what the tests run in)",
        "recalign prepare recbole": "tests/cli/test_prepare.py",
        "recalign train --dry_run": "tests/engine/training/test_dry_run.py",
        "recalign train --gin_file=beauty.gin": "(trains FLAN-T5 on an accelerator)",
        "launch/tpu_vm.py": "tests/launch/test_tpu_vm.py",
        "launch/reproduce.sh": "tests/launch/test_reproduce.py",
        "launch/gpu.sh": "(needs a GPU; tests/launch/test_scripts.py has XLA read its flags)",
        "pip install": "(downloads wheels for GPUs)",
        "export": "(says where a cluster has its domains)",
        "sbatch": "tests/launch/test_scripts.py",
        "docker": "(needs Docker; tests/launch/test_scripts.py reads the Dockerfile)",
        "launch/t5x.sh": "tests/launch/test_scripts.py",
        "python -m t5x.": "tests/t5x/test_recipes.py",
    },
    "recalign/README.md": {
        "curl": "tests/serving/test_serving.py",
        "recalign": "tests/runs/test_readme.py",
    },
    "tasks/README.md": {"recalign": "tests/runs/test_own_catalogue.py"},
    "tests/README.md": {"./launch/test.sh": _ALL_TESTS, "benchmarks/soak.py": _LONG},
    "tests/benchmarks/README.md": {
        "./launch/demo.sh": _LONG,
        "recalign ablate": "tests/runs/test_ablations.py",
        "recalign baseline": "tests/cli/test_baseline.py",
        "recalign cache": "tests/tokens/test_cache.py",
        "recalign eval": "tests/runs/test_readme.py",
        "recalign prepare": "tests/cli/test_prepare.py",
        "recalign train": "tests/runs/test_run.py",
        "python tests/benchmarks/convert.py": "(writes 40 GiB)",
        "python tests/benchmarks/decoding.py": "(needs transformers, and minutes)",
        "python tests/benchmarks/index.py": "tests/test_benchmarks.py",
        "python tests/benchmarks/input_pipeline.py": "tests/test_benchmarks.py",
        "python tests/benchmarks/prepare.py": "(prepares ten million events)",
        "python tests/benchmarks/ranking.py": "(needs Beauty)",
        "python tests/benchmarks/serving.py": "(needs a trained run, and minutes)",
        "python tests/benchmarks/train_step.py": "(needs T5X)",
    },
}


def lines_of(text: str) -> list[str]:
    """Every line of the blocks of shell commands, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def commands(text: str, program: str = "recalign") -> list[list[str]]:
    """Every call of a program in blocks of shell commands, in words."""
    lines = [line for line in lines_of(text) if line.startswith(f"{program} ")]
    return [shlex.split(line, comments=True) for line in lines]


def mentioned(text: str) -> list[str]:
    """The commands beside these blocks: calls of scripts, and of recalign with an option."""
    found = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [" ".join(line.split()) for line in found]
    return [
        line
        for line in lines
        if re.match(r"(python \S+|\./launch/\w+|benchmarks/\w+)\.|recalign .*-", line)
    ]


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


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_is_run_by_a_test_or_it_is_said_why_not(page):
    name, text = str(page.relative_to(ROOT)), page.read_text()
    lines = lines_of(text)
    if name.startswith("tests/"):  # these have their commands in the text
        lines += mentioned(text)
    told = RUN_BY.get(name, {})
    for line in lines:
        assert any(line.startswith(start) for start in told), line
    unused = [start for start in told if not any(line.startswith(start) for line in lines)]
    assert unused == []
    for by in told.values():
        assert by.startswith("(") or (ROOT / by).exists(), by


def test_there_are_commands():
    assert len([call for page in PAGES for call in commands(page.read_text())]) > 15
