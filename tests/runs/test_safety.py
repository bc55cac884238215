"""A run directory is data: what its config.gin names must not run what it likes."""

import pytest

from recalign.errors import UserError
from recalign.runs import configuration, gin_text, safety
from recalign.runs.run import load
from recalign.samples.registry import register_domain
from tests.commands import run
from tests.runs.test_run import SMALL

DYNAMIC = "from __gin__ import dynamic_registration\n"


def check(text, *modules):
    safety.check(gin_text.parse(text, "config.gin"), modules)


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "import shutil as trainer",
        "from os import system",
        "from subprocess import run",
        "from recalign import __main__",
        "import recalignment",
        "from t5x import utils",
        "include '/etc/other.gin'",
        "include 'toyshop.gin'",
    ],
)
def test_nothing_else_is_imported_or_included(line):
    text = f"{DYNAMIC}from recalign.runs import run\n{line}\n"
    with pytest.raises(UserError, match=r"config\.gin, line 3: (imports|includes)") as error:
        check(text)
    assert line in str(error.value)


@pytest.mark.parametrize(
    "statement",
    [
        "A = @files.shutil.rmtree()",
        "A = {'x': [@files.contextlib.contextmanager]}",
        "A = @b/files.os.system()",
        "files.os.system.command = 'touch /tmp/x'",
        "files.pa.array:\n  obj = []",
        # Recalign's own, but nothing that a recipe configures.
        "A = @conversion.convert()",
        "conversion.convert.source = 'x'",
        "A = @files.replacing",
        "A = @inputs.import_tasks()",
        # Not of the module that names it, or no function.
        "A = @run.UserError",
        "A = @run.Path()",
        "A = @run.log",
        "A = @run.Run.train()",
        "A = @nothing.here()",
        "A = @eval()",
        "A = @os.system()",
    ],
)
def test_only_what_recipes_configure_is_referred_to(statement):
    text = (
        f"{DYNAMIC}from recalign import files\nfrom recalign.engine.weights import conversion\n"
        f"from recalign.runs import run\nfrom recalign.samples import inputs\n{statement}\n"
    )
    with pytest.raises(UserError, match=r"config\.gin, line 6: refers to"):
        check(text)


def test_names_without_imports_would_be_looked_up_anywhere():
    with pytest.raises(UserError, match="begins with `from __gin__"):
        check("Run.model_dir = 'x'\n")


def test_every_recipe_of_ours_may_be_the_configuration_of_a_run():
    for recipe in ("toyshop.gin", "beauty.gin", "movielens_tiny.gin"):
        configuration.parse([recipe, "ablations/no_mim.gin"], ["MODEL_DIR=x"])
        check(gin_text.write(configuration.statements()))


def test_a_module_of_the_user_s_is_allowed_by_name(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_rates.py").write_text("import os\ndef rate(x=1):\n  return x\n")
    text = f"{DYNAMIC}import my_rates\nA = @my_rates.rate()\n"
    with pytest.raises(UserError, match="line 2: imports my_rates"):
        check(text)
    check(text, "my_rates")
    with pytest.raises(UserError, match=r"line 3: refers to my_rates\.os\.system"):
        check(text.replace("rate()", "os.system()"), "my_rates")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run("prepare", "toyshop", "--users", 120, "--items", 60)
    register_domain("toyshop")
    only = "--gin.MIXTURE_OR_TASK_NAME=toyshop_retrieval_only"
    options = (*SMALL, "--gin.TRAIN_STEPS=1", only, f"--gin.MODEL_DIR={folder}")
    run("train", "--gin_file=toyshop.gin", *options)
    return folder


def test_a_module_of_tasks_is_imported_only_if_the_user_says_so(folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    mark = tmp_path / "imported"
    (tmp_path / "downloaded.py").write_text(
        f"import pathlib, recalign.tasks\npathlib.Path({str(mark)!r}).touch()\n"
    )
    config = folder / "config.gin"
    before = config.read_text()
    changed = before.replace("'recalign.tasks'", "'downloaded'")
    assert changed != before
    config.write_text(changed)
    for command in (
        ("eval", "--split", "test"),
        ("infer", "--output", tmp_path / "out.jsonl"),
        ("recommend", "--user", "user-0017"),
        ("serve",),
    ):
        with pytest.raises(UserError, match="allow it with --module downloaded"):
            run(*command, "--model_dir", folder)
    assert not mark.exists()
    load(str(folder), modules=["downloaded"]).evaluate("validation")
    assert mark.exists()
    config.write_text(before)


def test_a_run_that_would_run_something_is_refused(folder, tmp_path):
    config = folder / "config.gin"
    before = config.read_text()
    mark = tmp_path / "ran"
    config.write_text(
        before.replace(
            "from recalign.runs import run\n", "import os\nfrom recalign.runs import run\n"
        )
        + f"\nos.system.command = 'touch {mark}'\nrun.Run.step = @os.system()\n"
    )
    with pytest.raises(UserError, match=r"config\.gin, line \d+: imports os"):
        run("eval", "--model_dir", folder)
    assert not mark.exists()
    config.write_text(before)
