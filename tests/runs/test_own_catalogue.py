"""tasks/README.md is followed to the letter, with a small shop and few steps."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from recalign.domains.readers import toyshop
from recalign.samples.registry import register_domain
from tests.commands import run
from tests.runs.test_run import SMALL

PAGE = (Path(__file__).parents[2] / "tasks/README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def arguments_of(line):
    """Those of a line of the page, `recalign …`."""
    program, *arguments = shlex.split(line)
    assert program == "recalign"
    return arguments + (SMALL if arguments[0] == "train" else [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the four commands were run, beside the two tables that they start from."""
    path = tmp_path_factory.mktemp("own")
    raw = toyshop.generate(users=100, items=60)
    raw.interactions.to_csv(path / "orders.csv", index=False)
    raw.items.rename(columns={"key": "item"}).to_csv(path / "items.csv", index=False)
    [commands] = blocks("bash")
    prepare, *others = commands.splitlines()
    assert len(others) == 3
    with contextlib.chdir(path):
        run(*arguments_of(prepare))
        register_domain("my_shop")  # as a new process would
        (path / "printed").write_text("\n".join(run(*arguments_of(line)) for line in others))
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
    arguments = arguments_of("recalign tasks my_shop_long --module my_tasks --examples 20")
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "recalign", *arguments],
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{root}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lengths = [int(n) for n in re.findall(r"^inputs  \((\d+) tokens\)", done.stdout, re.MULTILINE)]
    assert len(lengths) == 20
    assert min(lengths) > 12


def test_what_is_said_of_a_task_of_ones_own_trains_on_it(folder, monkeypatch):
    [code] = blocks("python")
    (folder / "my_tasks.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    [line] = re.findall(r"^recalign train .*", PAGE, re.MULTILINE)
    chosen = re.findall(r"--gin\.MIXTURE_OR_TASK_\w+=\w+", PAGE.partition("```python")[2])
    assert len(chosen) == 2
    run(*arguments_of(line), *chosen, "--gin.MODEL_DIR=runs/mine")
    assert "my_shop_retrieval" in run("eval", "--model_dir=runs/mine", "--module=my_tasks")
