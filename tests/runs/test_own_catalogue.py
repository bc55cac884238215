"""tasks/README.md is followed to the letter, with a small shop and few steps."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from recalign.domains.readers import toyshop
from tests.runs.test_run import SMALL

PAGE = (Path(__file__).parents[2] / "tasks/README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def shell(folder, line):
    """Runs a line of the page, `recalign …`, in a folder; gives what it prints."""
    program, *arguments = shlex.split(line)
    assert program == "recalign"
    small = SMALL if arguments[0] == "train" else []
    root = str(Path(__file__).parents[2])
    environment = os.environ | {
        "RECALIGN_DATA_DIR": str(folder / "data"),
        "PYTHONPATH": f"{folder}{os.pathsep}{root}",
    }
    done = subprocess.run(
        [sys.executable, "-m", "recalign", *arguments, *small],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the four commands were run, beside the two tables that they start from."""
    path = tmp_path_factory.mktemp("own")
    raw = toyshop.generate(users=100, items=60)
    raw.interactions.to_csv(path / "orders.csv", index=False)
    raw.items.rename(columns={"key": "item"}).to_csv(path / "items.csv", index=False)
    [commands] = blocks("bash")
    lines = commands.splitlines()
    assert len(lines) == 4
    (path / "printed").write_text("\n".join(shell(path, line) for line in lines))
    return path


def test_four_commands_lead_from_a_table_to_a_judged_model(folder):
    found = json.loads((folder / "runs/my_shop/metrics.json").read_text())
    assert "my_shop_retrieval/test/full/hr@10" in found
    printed = (folder / "printed").read_text()
    assert printed.count("| recalign") == 10  # 3 tables and 2 of groups, twice


def test_a_task_of_ones_own_takes_ten_lines(folder):
    [code] = blocks("python")
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 10
    (folder / "my_tasks.py").write_text(code)
    shown = shell(folder, "recalign tasks my_shop_long --module my_tasks --examples 20")
    lengths = [int(n) for n in re.findall(r"^inputs  \((\d+) tokens\)", shown, re.MULTILINE)]
    assert len(lengths) == 20
    assert min(lengths) > 12
