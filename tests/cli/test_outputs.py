"""What cannot be written to is told by every command that writes, before any work."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from recalign import cli
from recalign.cli import recalign
from recalign.errors import UserError

# What they ask for is not there, and would be told if it were looked at before the output.
FILES = {
    "infer": ("infer", "--model_dir=nowhere", "--output"),
    "baseline": ("baseline", "--domain=nowhere", "--output"),
}
FOLDERS = {
    "cache": ("cache", "--gin_file=nowhere.gin", "--output"),
    "ablate": ("ablate", "--gin_file=nowhere.gin", "--output"),
    "convert": ("convert", "--to=hf", "nowhere"),
}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()


def message(*arguments):
    result = CliRunner().invoke(recalign, arguments)
    assert isinstance(result.exception, UserError), result.exception
    return str(result.exception)


@pytest.mark.parametrize("command", FILES)
def test_a_file_has_a_folder_to_be_in_and_is_none(command):
    arguments = FILES[command]
    assert message(*arguments, "folder") == "--output folder: there is a folder of that name"
    assert "no/out.jsonl: no is not there: make it first" in message(*arguments, "no/out.jsonl")
    assert "file/out.jsonl: file is a file" in message(*arguments, "file/out.jsonl")
    assert "nowhere" in message(*arguments, "folder/out.jsonl")  # that one is right


@pytest.mark.parametrize("name", ["out.csv", "out.TSV", "out.parquet", "out.jsonl.gz"])
@pytest.mark.parametrize("command", FILES)
def test_a_file_has_no_name_of_another_kind(command, name):
    told = message(*FILES[command], name)
    assert f"{name}: what is written is no {Path(name).suffix}. A" in told


@pytest.mark.parametrize("command", FILES)
def test_a_pipe_may_be_written_into_wherever_it_lies(command, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name == "pipe")
    assert "nowhere" in message(*FILES[command], "pipe")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert message(*FILES[command], "pipe") == "--output pipe: pipe cannot be written to"


@pytest.mark.parametrize("command", FILES | FOLDERS | {"report": ("report", "nowhere", "--output")})
def test_nothing_is_written_to_standard_output(command, tmp_path):
    """Where the command tells how it went: the two would mix."""
    told = message(*(FILES | FOLDERS | {"report": ("report", "nowhere", "--output")})[command], "-")
    assert " -: nothing is written to standard output" in told
    assert not (tmp_path / "-").exists()


MODULES = {
    "eval": ("eval", "--model_dir=nowhere"),
    "infer": ("infer", "--model_dir=nowhere", "--output=out.jsonl"),
    "recommend": ("recommend", "--model_dir=nowhere", "--history=a"),
    "serve": ("serve", "--model_dir=nowhere"),
    "convert": ("convert", "nowhere", "out", "--to=hf"),
    "add-items": ("add-items", "--model_dir=nowhere", "--undo"),
    "tasks": ("tasks",),
}


@pytest.mark.parametrize("command", MODULES)
def test_a_module_that_is_not_there_is_named(command, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/__init__.py").write_text("no Python")
    for name in ("nope", "nope.tasks", "mine.tasks", "broken.tasks", ".mine", "mine/tasks.py"):
        told = message(*MODULES[command], "--module", name)
        assert told.startswith("--module")
        assert name in told
    if command != "tasks":
        assert "nowhere" in message(*MODULES[command], "--module", "mine")  # that one is right


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_has_no_file_in_its_way(command):
    arguments = FOLDERS[command]
    for output in ("file", "file/new", "file/new/deep"):
        assert f"{output}: " in message(*arguments, output)
        assert "file is a file" in message(*arguments, output)
    assert "nowhere" in message(*arguments, "new/folder")  # that one is right


def test_a_domain_is_not_prepared_where_it_cannot_be_kept():
    assert "cannot be written to" in message("prepare", "toyshop", "--data_dir", "file")


def test_a_run_is_not_begun_where_it_cannot_be_written():
    arguments = ("train", "--gin_file=toyshop.gin", "--gin.MIXTURE_OR_TASK_NAME=toyshop_aligned")
    told = message(*arguments, "--gin.MODEL_DIR=file/run")
    assert told == "MODEL_DIR is file/run, where no run can be written: Not a directory"


@pytest.mark.parametrize("command", ["infer", "baseline", "cache"])
def test_what_is_written_is_on_local_disk(command, tmp_path):
    told = message(*(FILES | FOLDERS)[command], "gs://bucket/new")
    assert told.startswith("--output gs://bucket/new: ")
    assert "local disk" in told
    assert not (tmp_path / "gs:").exists()


def test_runs_may_be_in_a_bucket():
    assert "nowhere.gin" in message(*FOLDERS["ablate"], "gs://bucket/new")
    told = message("train", "--gin_file=toyshop.gin", "--gin.MODEL_DIR=s3://bucket/run")
    assert told.startswith("MODEL_DIR is s3://bucket/run, but must be a local folder, or one in a ")


def test_a_domain_is_prepared_on_local_disk(tmp_path):
    told = message("prepare", "toyshop", "--data_dir", "gs://bucket")
    assert told.startswith("gs://bucket/toyshop: domains are prepared on local disk")
    assert not (tmp_path / "gs:").exists()


PATHS = {
    "prepare table": ["--name", "x", "--interactions"],
    "prepare recbole": ["--name", "x", "--inter"],
    "prepare movielens": ["--name", "x", "--path"],
    "prepare toyshop": ["--data_dir"],
    "report": ["--output", "x.html"],
    "infer": ["--model_dir", "nowhere", "--output"],
    "recommend": ["--model_dir", "nowhere", "--histories"],
    "convert": ["nowhere", "--to", "hf"],
}


NAMES = {
    "eval": ["--model_dir"],
    "eval --model_dir=x": ["--step", "--module", "--with", "--against"],
    "infer --output=x --model_dir=x": ["--task"],
    "baseline": ["--domain", "--domain=x --name"],
    "ablate --output=x --gin_file=x": ["--ablations", "--domains"],
    "add-items --model_dir=x": ["--undo --domain"],
    "convert --to=hf": ["", "x --item_tokens=x"],
    "tasks": ["--module"],
    "train": ["--gin_file", "--gin_file=x --dry_run --topology"],
}


@pytest.mark.parametrize("arguments", [f"{c} {a}" for c, found in NAMES.items() for a in found])
def test_an_empty_name_is_no_name(arguments):
    result = CliRunner().invoke(recalign, [*arguments.split(), ""])
    assert result.exit_code == 2
    assert "it names nothing" in result.stderr


@pytest.mark.parametrize("command", PATHS)
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_path_is_no_path(command, value):
    result = CliRunner().invoke(recalign, [*command.split(), *PATHS[command], value])
    told = str(result.exception) if isinstance(result.exception, UserError) else result.stderr
    assert "it names nothing" in told, told


@pytest.mark.parametrize("command", [c for c in PATHS if "toyshop" not in c and c != "convert"])
def test_a_path_elsewhere_is_told(command):
    told = message(*command.split(), *PATHS[command], "s3://bucket/x")
    assert "s3://bucket/x: only local" in told


def test_the_home_folder_is_not_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    told = message("infer", "--model_dir=nowhere", "--output", "~/no/out.jsonl")
    assert f"{tmp_path / 'home' / 'no'} is not there: make it first" in told
    (tmp_path / "home" / "my.gin").write_text("NOPE = 1\n")
    assert "nothing uses `NOPE`" in message("train", "--gin_file=~/my.gin")
    assert "nothing uses `NOPE`" in message(
        "train", "--gin_file=my.gin", "--gin_search_paths=~/none,~"
    )


@pytest.mark.parametrize("seeds", ["0,-1", "", "1.5", "0,one"])
def test_seeds_are_whole_numbers_from_0_on(seeds):
    told = message("baseline", "--domain=nowhere", "--seeds", seeds)
    assert told == f"--seeds is {seeds!r}, but must be whole numbers from 0 to 2**32 - 1: 0,1,2"
    for option in ("--examples", "--seed"):
        assert CliRunner().invoke(recalign, ["tasks", option, "-3"]).exit_code == 2


def test_what_a_terminal_cannot_show_is_written_otherwise():
    """The help has three dots in one character, which Latin-1 lacks."""
    command = [sys.executable, "-m", "recalign", "train", "--help"]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"models/tiny.gin, \\u2026" in done.stdout


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ((errno.ENOSPC, "", "from", None, "to"), "to: the disk is full; make room and call again"),
        ((errno.ENOSPC, "", "to"), "to: the disk is full; make room and call again"),
        ((errno.EFBIG, "", "to"), "to: a file is larger than it may be (ulimit -f)"),
        ((errno.EROFS, "Read-only", "to"), "to: Read-only"),
    ],
)
def test_what_the_system_says_is_one_message(error, told, monkeypatch, capsys):
    def fail(**options):
        raise OSError(*error)

    monkeypatch.setattr(cli, "recalign", fail)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert capsys.readouterr().err == f"recalign: {told}\n"


def test_a_current_folder_that_is_gone_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    monkeypatch.setattr(sys, "argv", ["recalign", "convert", "--to=t5x", "nowhere", "out"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "the current folder is gone" in capsys.readouterr().err
    os.chdir(tmp_path)
