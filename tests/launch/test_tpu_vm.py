"""launch/tpu_vm.py against a gcloud that fails in every way that costs money."""

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.test_readmes import commands

ROOT = Path(__file__).parents[2]
RUN = ["run", "--name=job", "--zone=z", "--accelerator_type=v5litepod-16", "--bucket=bucket"]
RECIPE = ["--", "--gin_file=toyshop.gin"]


@pytest.fixture
def tpu_vm():
    path = ROOT / "launch/tpu_vm.py"
    spec = importlib.util.spec_from_file_location("tpu_vm", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield module
    for number, handler in handlers.items():
        # None is a handler that some library installed below Python.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


class Cloud:
    """The folder of the fake gcloud."""

    def __init__(self, folder):
        self.folder = folder
        self.slept = []
        self.trainer("exit 0")

    def trainer(self, script):
        path = self.folder / "trainer"
        path.write_text(f'#!/usr/bin/env bash\necho "worker $WORKER: $*"\n{script}\n')
        path.chmod(0o755)

    def rules(self, *rules):
        (self.folder / "rules.json").write_text(json.dumps(rules))

    def states(self, *states):
        (self.folder / "states.json").write_text(json.dumps(states))

    def calls(self, *words, by="calls"):
        path = self.folder / f"{by}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if set(words) <= set(call)]

    def resources(self):
        path = self.folder / "resources.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def sleep(self, seconds):
        self.slept.append(seconds)


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    folder, programs = tmp_path / "cloud", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    fake = programs / "gcloud"
    script = Path(__file__).with_name("fake_gcloud.py")
    fake.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(script))} "$@"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_GCLOUD", str(folder))
    monkeypatch.chdir(tmp_path)
    return Cloud(folder)


@pytest.fixture
def launch(tpu_vm, cloud):
    return lambda *arguments: tpu_vm.main([*arguments], cloud.sleep)


def test_a_run_on_every_worker_and_nothing_left(launch, cloud, capfdbinary):
    cloud.states("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    assert launch(*RUN, "--spot", *RECIPE) == 0
    out = capfdbinary.readouterr().out.decode()
    assert (
        "worker 0: train --multiprocess --gin_file=toyshop.gin "
        "--gin.MODEL_DIR=gs://bucket/runs/job\n" in out
    )
    domains = [str(cloud.folder / f"workers/{worker}/recalign/domains") for worker in range(2)]
    copied = cloud.calls("gs://bucket/domains", "rsync", by="worker_calls")
    assert [call[-1] for call in copied] == domains
    other = (cloud.folder / "workers/1/recalign/log").read_text()
    assert other.startswith("worker 1: train --multiprocess")
    [create] = cloud.calls("create")
    assert {"--spot", "--node-id=job", "--runtime-version=v2-alpha-tpuv5-lite"} <= set(create)
    assert cloud.resources() == {}
    fetched = ["gs://bucket/runs/job", "runs/job"]
    assert cloud.calls("rsync")[-1][-2:] == fetched
    deleted = cloud.calls().index(cloud.calls("delete")[0])
    assert deleted < cloud.calls().index(cloud.calls(*fetched)[0])  # it costs nothing any more


def test_the_training_s_exit_code_is_told(launch, cloud):
    cloud.trainer("exit 7")
    assert launch(*RUN, *RECIPE) == 7
    assert cloud.resources() == {}


def test_exit_code_75_runs_it_again_on_the_same_machine(launch, cloud, capfdbinary):
    cloud.trainer(
        '[ -e "$FAKE_GCLOUD/again$WORKER" ] || { touch "$FAKE_GCLOUD/again$WORKER"; exit 75; }'
    )
    assert launch(*RUN, *RECIPE) == 0
    assert capfdbinary.readouterr().out.count(b"worker 0: train") == 2
    assert len(cloud.calls("create")) == 1


def test_a_preempted_machine_is_replaced(launch, cloud):
    lost = {"match": "follow", "error": "ssh lost", "code": 255, "state": "SUSPENDED"}
    cloud.rules(lost)
    assert launch(*RUN, "--spot", *RECIPE) == 0
    assert len(cloud.calls("create")) == 2
    assert len(cloud.calls("delete")) == 2
    assert cloud.resources() == {}


def test_a_machine_preempted_during_installation_is_replaced(launch, cloud):
    cloud.rules({"match": "tar xzf", "error": "gone", "times": 4, "state": "SUSPENDED"})
    assert launch(*RUN, "--spot", *RECIPE) == 0
    assert len(cloud.calls("create")) == 2
    assert cloud.resources() == {}


def test_machines_that_are_taken_away_again_and_again_are_given_up(launch, cloud, capsys):
    cloud.rules({"match": "follow", "error": "lost", "times": 99, "state": "SUSPENDED"})
    assert launch(*RUN, "--attempts=3", *RECIPE) == 2
    assert "given up after 3 attempts" in capsys.readouterr().err
    assert len(cloud.calls("create")) == 3
    assert cloud.resources() == {}


def test_a_lost_connection_is_taken_up_where_it_broke_off(launch, cloud, capfdbinary):
    """Neither is the run started twice, nor is a line told twice."""
    cloud.trainer("seq 3")
    again = {"match": "start 1", "error": "Connection reset", "although_done": True}
    cloud.rules(again, {"match": "follow", "error": "Connection reset", "code": 255})
    assert launch(*RUN, *RECIPE) == 0
    out = capfdbinary.readouterr().out.decode()
    assert out.count("worker 0: train") == 1
    assert out.rstrip().endswith("1\n2\n3")
    assert len(cloud.calls("create")) == 1


def test_a_machine_that_no_connection_reaches_is_given_up(launch, cloud, tpu_vm, capsys):
    cloud.rules({"match": "follow", "error": "timed out", "code": 255, "times": 99})
    assert launch(*RUN, *RECIPE) == 2
    assert "brought nothing" in capsys.readouterr().err
    assert len(cloud.calls("--worker=0")) == tpu_vm.SILENT_CONNECTIONS
    assert cloud.resources() == {}


def test_no_quota_is_told_at_once(launch, cloud, capsys):
    error = "RESOURCE_EXHAUSTED: Quota 'TPUV5sLitepodPerProjectPerZone' exceeded. Limit: 0"
    cloud.rules({"match": "create", "error": error, "times": 99})
    assert launch(*RUN, *RECIPE) == 2
    assert "no quota for v5litepod-16 in z" in capsys.readouterr().err
    assert len(cloud.calls("create")) == 1
    assert cloud.slept == []


def test_what_passes_is_tried_again_ever_more_slowly(launch, cloud):
    cloud.rules({"match": "create", "error": "UNAVAILABLE: try later", "times": 3})
    assert launch(*RUN, *RECIPE) == 0
    assert cloud.slept[:3] == [5, 10, 20]


def test_a_machine_that_came_although_the_request_failed_is_used(launch, cloud):
    """The answer is lost, the second request finds the name taken: by our own token."""
    cloud.rules({"match": "create", "error": "DEADLINE_EXCEEDED", "although_done": True})
    assert launch(*RUN, *RECIPE) == 0
    assert cloud.resources() == {}


def test_a_machine_that_came_although_creation_failed_for_good_is_deleted(launch, cloud):
    cloud.rules({"match": "create", "error": "something new", "although_done": True})
    assert launch(*RUN, *RECIPE) == 2
    assert cloud.resources() == {}


def test_somebody_else_s_machine_of_that_name_is_left_alone(launch, cloud, capsys):
    theirs = {"job": {"labels": {"recalign": "other"}, "states": ["ACTIVE"]}}
    (cloud.folder / "resources.json").write_text(json.dumps(theirs))
    assert launch(*RUN, *RECIPE) == 2
    assert "left alone" in capsys.readouterr().err
    assert cloud.resources() == theirs
    assert cloud.calls("delete") == []


def test_a_machine_that_cannot_be_deleted_is_shouted_about(launch, cloud, capsys):
    cloud.rules({"match": "delete", "error": "PERMISSION_DENIED", "times": 99})
    assert launch(*RUN, *RECIPE) == 3
    error = capsys.readouterr().err
    assert "COULD NOT BE DELETED" in error
    assert "gcloud compute tpus queued-resources delete job --zone=z --force --quiet" in error


def test_a_deletion_that_fails_in_passing_is_repeated(launch, cloud):
    cloud.rules({"match": "delete", "error": "UNAVAILABLE", "times": 2})
    assert launch(*RUN, *RECIPE) == 0
    assert cloud.resources() == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_trains_deletes_the_machine(cloud, number):
    cloud.trainer("sleep 60")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "launch/tpu_vm.py"), *RUN, *RECIPE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().startswith("worker 0")
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert number.name in error
    assert cloud.resources() == {}


def test_a_second_signal_does_not_cut_the_deletion_off(cloud, tmp_path):
    cloud.trainer("sleep 60")
    slow = tmp_path / "bin/gcloud"
    slow.write_text(slow.read_text().replace("exec", 'case "$*" in *delete*) sleep 2;; esac; exec'))
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "launch/tpu_vm.py"), *RUN, *RECIPE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert cloud.resources() == {}


def test_dry_run_prints_what_a_run_calls_and_calls_nothing(launch, cloud, capsys):
    assert launch(*RUN, "--project=p", "--dry_run", *RECIPE) == 0
    printed = [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()]
    assert cloud.calls() == []
    assert launch(*RUN, "--project=p", *RECIPE) == 0

    def kinds(calls):
        return [[word for word in call if "=" not in word and ".gz" not in word] for call in calls]

    # A real run also looks whether the machine is gone.
    gone = next(i for i, call in enumerate(cloud.calls()) if "delete" in call) + 1
    assert kinds(printed) == kinds(cloud.calls()[:gone] + cloud.calls()[gone + 1 :])


@pytest.fixture
def clone(tpu_vm, tmp_path, monkeypatch):
    """A small clone in the place of this one, with what may lie about in it."""
    root = tmp_path / "clone"
    root.mkdir()
    shutil.copy(ROOT / ".gitignore", root)

    def git(*arguments):
        command = ["git", "-C", root, "-c", "user.name=n", "-c", "user.email=e", *arguments]
        subprocess.run(command, check=True, capture_output=True)

    def write(name, text=""):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    git("init", "--quiet")
    for name in ("setup.py", "recalign/runs/run.py", "recalign/tokens/x.py", "gone.py"):
        write(name)
    git("add", ".")
    git("commit", "--quiet", "--message=m")
    (root / "gone.py").unlink()
    write("setup.py", "changed")
    for name in ("mine.gin", "id_rsa", ".env", "runs/a/checkpoints/1", "tokens/rows", "my.pem"):
        write(name)
    monkeypatch.setattr(tpu_vm, "ROOT", root)
    return root


SENT = {".gitignore", "setup.py", "recalign/runs/run.py", "recalign/tokens/x.py"}


def test_only_what_git_tracks_goes_to_the_workers_as_it_is_now(tpu_vm, clone, tmp_path):
    tpu_vm.pack_tree(tmp_path / "tree.tar.gz")
    with tarfile.open(tmp_path / "tree.tar.gz") as tar:
        assert set(tar.getnames()) == {f"recalign-tree/{name}" for name in SENT}
        assert tar.extractfile("recalign-tree/setup.py").read() == b"changed"


def test_what_goes_to_the_workers_is_told_and_so_is_what_does_not(launch, clone, capsys):
    assert launch(*RUN, "--dry_run", *RECIPE) == 0
    said = capsys.readouterr().err.splitlines()
    assert {line.removeprefix("tpu_vm:   ") for line in said if ":   " in line} == SENT
    assert sum(line.endswith("(`git add` them): id_rsa, mine.gin") for line in said) == 1


def test_without_git_nothing_is_sent(launch, clone, cloud, capsys):
    shutil.rmtree(clone / ".git")
    assert launch(*RUN, *RECIPE) == 2
    assert "is asked of git" in capsys.readouterr().err
    assert cloud.resources() == {}


def test_delete_takes_only_what_this_launcher_made(launch, cloud, capsys):
    path = cloud.folder / "resources.json"
    for labels, code, left in (({"recalign": "t"}, 0, {}), ({}, 2, {"job"})):
        path.write_text(json.dumps({"job": {"labels": labels, "states": ["ACTIVE"]}}))
        assert launch("delete", "--name=job", "--zone=z") == code
        assert set(cloud.resources()) == set(left)
    assert "left alone" in capsys.readouterr().err


def test_a_domain_that_is_not_prepared_costs_nothing(launch, cloud, capsys):
    assert launch(*RUN, "--domain=nowhere", "--data_dir=/nonexistent", *RECIPE) == 2
    assert "recalign prepare" in capsys.readouterr().err
    assert cloud.calls() == []


def test_what_the_readme_calls(launch, cloud, tmp_path, monkeypatch, capfdbinary):
    (tmp_path / "data" / "beauty").mkdir(parents=True)
    (tmp_path / "data" / "beauty" / "statistics.json").write_text("{}")
    monkeypatch.setenv("RECALIGN_DATA_DIR", str(tmp_path / "data"))
    calls = commands((ROOT / "launch/README.md").read_text(), "launch/tpu_vm.py")
    assert [words[1] for words in calls] == ["run", "run", "list"]
    assert [launch(*words[1:]) for words in calls] == [0, 0, 0]
    assert b"train --multiprocess --gin_file=beauty.gin" in capfdbinary.readouterr().out
    assert len(cloud.calls("create", "--spot")) == 1
    assert cloud.resources() == {}
