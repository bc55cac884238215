"""What is installed is whole, wherever it is run from."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The unpacked wheel of this tree, built from a copy so that nothing is left in it."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "tree"
    unwanted = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=unwanted)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def python(wheel, tmp_path, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(wheel), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_wheel_holds_every_module_task_and_recipe(wheel):
    def names(root, *patterns):
        return {str(path.relative_to(root)) for pattern in patterns for path in root.rglob(pattern)}

    assert names(wheel / "recalign/gin", "*.gin") == names(ROOT / "gin", "*.gin")
    assert names(wheel / "recalign/tasks", "*.py") == names(ROOT / "tasks", "*.py")
    assert names(ROOT / "recalign", "*.py") <= names(wheel / "recalign", "*.py")
    page = ("*.css", "*.js", "*.html")
    assert names(ROOT / "recalign", *page) == names(wheel / "recalign", *page)
    assert {path.name for path in wheel.iterdir()} == {"recalign", "recalign-0.1.0.dist-info"}


def test_the_wheel_finds_its_own_recipes_and_tasks(wheel, tmp_path):
    script = (
        "import recalign.tasks; from recalign.runs import configuration;"
        "configuration.parse(['toyshop.gin'], ['MODEL_DIR=x']); print(recalign.tasks.__file__)"
    )
    code, out, error = python(wheel, tmp_path, "-c", script)
    assert code == 0, error
    assert out.strip() == str(wheel / "recalign/tasks/__init__.py")


def test_help_answers_at_once_and_without_the_heavy_libraries(wheel, tmp_path):
    script = (
        "import sys; from click.testing import CliRunner; from recalign.cli import recalign;"
        "result = CliRunner().invoke(recalign, ['--help']); assert result.exit_code == 0;"
        "heavy = {'tensorflow', 'jax', 'seqio', 'pandas', 'numpy', 'flax'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    code, out, error = python(wheel, tmp_path, "-c", script)
    assert (code, out.strip()) == (0, "[]"), error


def test_a_mistake_is_one_message_and_exit_code_2(wheel, tmp_path):
    code, out, error = python(
        wheel, tmp_path, "-m", "recalign", "train", "--gin_file=nowhere.gin", "--gin.MODEL_DIR=x"
    )
    assert code == 2
    assert out == ""
    assert error.startswith("recalign: configuration: ")
    assert "nowhere.gin" in error
    assert "Traceback" not in error
    assert not (tmp_path / "x").exists()
