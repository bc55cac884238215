"""`recalign baseline` from the shell's side."""

import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from recalign.cli.baseline import baseline
from recalign.cli.prepare import prepare
from recalign.errors import UserError, quote
from recalign.evaluation.baselines.rows import RANKERS, RATERS


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    arguments = ["toyshop", "--users", "200", "--items", "150", "--data_dir", str(folder)]
    CliRunner().invoke(prepare, arguments, catch_exceptions=False)
    return folder


def run(data_dir, *arguments):
    arguments = ["--domain", "toyshop", "--data_dir", str(data_dir), *map(str, arguments)]
    return CliRunner().invoke(baseline, arguments)


def test_several_names_make_one_table_and_one_file(data_dir, tmp_path):
    output = tmp_path / "metrics.json"
    names = ["--name", "popularity,cooccurrence", "--name", "bpr"]
    result = run(data_dir, *names, "--output", output)
    assert result.exit_code == 0, result.exception
    lines = result.stdout.splitlines()
    for protocol in ("full:", "full_unseen:", "cand100:"):
        [start] = [n for n, line in enumerate(lines) if line.startswith(protocol)]
        labels = [line.split("|")[1].strip() for line in lines[start + 4 : start + 7]]
        assert labels == ["popularity", "item co-occurrence", "BPR-MF"]
    metrics = json.loads(output.read_text())
    popular, near = (
        metrics[f"toyshop/{label}/test/full_unseen/hr@10"]
        for label in ("popularity", "item co-occurrence")
    )
    assert near > 2 * popular > 0
    assert f"{popular:.4f}" in result.stdout
    assert metrics["toyshop/BPR-MF/test/full/low/hr@10"] < metrics["toyshop/BPR-MF/test/full/hr@10"]
    assert metrics["toyshop/BPR-MF/test/seconds"] > 0
    [kept] = (data_dir / "toyshop" / "baselines").iterdir()  # what only counts is not kept
    written = kept.stat().st_mtime_ns
    again = run(data_dir, *names)
    assert kept.stat().st_mtime_ns == written
    table, _, seconds = result.stdout.rpartition("\n\n")
    assert again.stdout.startswith(f"{table}\n\n")
    assert again.stdout.split()[-1] == seconds.split()[-1]  # of the fit that was read


def test_wrong_use(data_dir):
    for arguments, message in (
        (["--name", "knn"], "no baseline 'knn'"),
        (["--name", "all", "--name", "knn"], "no baseline 'knn'"),
        (["--name", "user_mean"], "toyshop has none"),
        (["--name", ", ,"], "there is no name in ', ,'"),
    ):
        error = run(data_dir, *arguments).exception
        assert isinstance(error, UserError)
        assert message in str(error)
    assert run(data_dir, "--split", "train").exit_code == 2
    for seeds in ("0,one", "0-2", "", ",", "-1", "1.5", "4294967296", "9" * 5000):
        error = run(data_dir, "--name", "popularity", "--seeds", seeds).exception
        assert isinstance(error, UserError), seeds
        assert f"--seeds is {quote(seeds)}, but must be" in str(error)


def test_names_between_commas_may_have_spaces(data_dir):
    result = run(data_dir, "--name", " popularity, cooccurrence,", "--seeds", "0, 0")
    assert result.exit_code == 0, result.exception
    assert "popularity" in result.stdout
    assert "item co-occurrence" in result.stdout


def test_importing_the_command_line_imports_nothing_heavy():
    program = (
        "import sys, recalign.cli; "
        "print([m for m in ('numpy', 'scipy', 'implicit', 'jax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_help_names_every_baseline():
    [option] = [o for o in baseline.params if o.name == "names"]
    assert [*re.findall(r"[a-z_]+(?=[,;])", option.help)] == [*RANKERS, *RATERS]
