"""Checkpoints answer in three ways: passed over, raised as it is, or told with what to do."""

import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from etils import epath
from jax.experimental import multihost_utils

from recalign.engine.network.transformer import Transformer
from recalign.engine.partitioning import Partitioner
from recalign.engine.training.adafactor import adafactor
from recalign.engine.training.checkpoints import Checkpoints
from recalign.engine.training.model import EncoderDecoderModel
from recalign.engine.training.trainer import Trainer
from recalign.engine.weights import manifest
from recalign.engine.weights.conversion import load_params, open_weights
from recalign.errors import UserError
from recalign.files import resolve
from tests.engine.smallest import CONFIG
from tests.survival.running import free_port

BEFORE = {"vocabulary": "sha256 0123456789abcdef", "domain toyshop": "sha256 fedcba9876543210"}


class Position:
    """An input whose position is one number; some positions it may refuse."""

    def __init__(self, error: Exception | None = None):
        self.position, self.error = 7, error

    def save(self, path):
        epath.Path(path).write_text(json.dumps({"rows_read": self.position}))

    def restore(self, path):
        if self.error:
            raise self.error
        self.position = json.loads(epath.Path(path).read_text())["rows_read"]

    def reset(self):
        self.position = 0


def trainer(optimizer=None):
    model = EncoderDecoderModel(Transformer(CONFIG), optimizer or adafactor(0.1))
    return Trainer(model, Partitioner(devices=jax.devices()[:1]))


@pytest.mark.parametrize("name", ["run[1]", "a*", "a?", "a\\b"])
def test_a_folder_that_orbax_takes_for_a_pattern_is_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint can be written here, .* for a pattern"):
        Checkpoints(tmp_path / name / "checkpoints")
    assert not (tmp_path / name).exists()
    Checkpoints(tmp_path / name, read_only=True)
    Checkpoints(tmp_path / "run 1 #%41 ü {a}")


def numbered(state, start=0):
    """A state of whose every value is known: leaf i counts from `start` + i."""
    leaves, tree = jax.tree.flatten(state)
    values = [np.arange(leaf.size).reshape(leaf.shape) + start + i for i, leaf in enumerate(leaves)]
    placed = [
        jax.device_put(value.astype(leaf.dtype), leaf.sharding)
        for value, leaf in zip(values, leaves, strict=True)
    ]
    return tree.unflatten(placed)


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


STATE = trainer().abstract_state


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Numbered states, each from its step."""
    folder = tmp_path_factory.mktemp("written")
    checkpoints = Checkpoints(folder, keep=None)
    fresh = trainer().init_state()
    for step in (2, 4, 6, 8):
        checkpoints.save(step, numbered(fresh, start=step), Position())
    checkpoints.close()
    return folder


@pytest.fixture
def save(written):
    """Puts some of them into a folder."""

    def copy(folder, *steps):
        for step in steps:
            shutil.copytree(written / str(step), folder / str(step))

    return copy


def injure(folder, step, file="state/_METADATA"):
    path = folder / str(step) / file
    path.write_bytes(b"\0" + path.read_bytes()[1:])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def before(tmp_path):
    """What commit e97eb70 wrote at step 3: leaf i counts from i, the input has read 24 rows."""
    archive = Path(__file__).parent / "golden/checkpoint_e97eb70.zip"
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path)
    return tmp_path / "checkpoints"


def test_a_checkpoint_of_the_version_before_is_read(before, caplog):
    state, position = numbered(STATE), Position()
    now = {"vocabulary": BEFORE["vocabulary"], "domain toyshop": "content 0123456789abcdef"}
    found = Checkpoints(before, provenance=now, read_only=True)
    assert_equal(found.restore(STATE, position), state)
    assert position.position == 24
    assert "that it is the same one is not checked" in caplog.text
    step, params = found.restore_params(STATE.params)
    assert step == 3
    assert_equal(params, state.params)
    assert_equal(load_params(before)[1], jax.device_get(state.params))
    assert Checkpoints(before, provenance=BEFORE, read_only=True).latest_step() == 3


@pytest.mark.parametrize("name", ["vocabulary", "domain toyshop"])
def test_whatever_restores_compares_what_the_parameters_belong_to(before, name):
    other = BEFORE | {name: "sha256 0000000000000000"}
    found = Checkpoints(before, provenance=other, read_only=True)
    for restore in (
        lambda: found.restore(STATE),
        lambda: found.restore(STATE, step=3),
        lambda: found.restore_params(STATE.params),
    ):
        with pytest.raises(UserError, match=f"is of another {name}: .* has sha256 0000"):
            restore()


def test_only_what_the_manifest_condemns_is_set_aside(save, tmp_path, caplog):
    save(tmp_path, 2, 4, 6, 8)
    injure(tmp_path, 8)
    (tmp_path / "6" / manifest.MANIFEST).unlink()
    assert int(Checkpoints(tmp_path, read_only=True).restore(STATE).step) == 4
    assert names(tmp_path) == ["2", "4", "6", "8"]
    checkpoints = Checkpoints(tmp_path)
    assert int(checkpoints.restore(STATE).step) == 4
    checkpoints.close()
    assert names(tmp_path) == ["2", "4", "damaged_6", "damaged_8"]
    assert "step 8 is damaged, trying the one before: state/_METADATA is not what" in caplog.text
    assert "step 6 is damaged, trying the one before: manifest.json is missing" in caplog.text


def test_a_step_that_was_asked_for_is_not_replaced(save, tmp_path):
    save(tmp_path, 2, 4)
    injure(tmp_path, 4)
    with pytest.raises(UserError, match=r"step 4 of .* is damaged \(state/_METADATA is not what"):
        Checkpoints(tmp_path, read_only=True).restore(STATE, step=4)
    assert names(tmp_path) == ["2", "4"]


@pytest.mark.parametrize("error", [MemoryError("32 GiB"), ValueError("of a newer Orbax")])
@pytest.mark.parametrize("where", ["metadata", "restore"])
def test_what_is_whole_and_cannot_be_read_is_raised_as_it_is(
    save, tmp_path, monkeypatch, error, where
):
    save(tmp_path, 2, 4)

    def fail(*_, **__):
        raise error

    for handler in (ocp.PyTreeCheckpointHandler, ocp.StandardCheckpointHandler):
        monkeypatch.setattr(handler, where, fail)
    checkpoints = Checkpoints(tmp_path)
    for restore in (
        lambda: checkpoints.restore(STATE, Position()),
        lambda: checkpoints.restore_params(STATE.params),
    ):
        with pytest.raises(type(error)) as raised:
            restore()
        assert raised.value is error
    assert names(tmp_path) == ["2", "4"]


def test_files_that_cannot_be_read_are_not_damaged(save, tmp_path, monkeypatch):
    save(tmp_path, 2, 4)

    def fail(*_):
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(manifest, "hash_file", fail)
    with pytest.raises(OSError, match="Input/output error"):
        Checkpoints(tmp_path).restore(STATE)
    assert names(tmp_path) == ["2", "4"]


@pytest.mark.parametrize("error", [KeyError("rows"), ValueError("the graph has changed")])
def test_a_position_that_does_not_fit_is_told_and_the_input_may_start_anew(
    save, tmp_path, caplog, error
):
    caplog.set_level("INFO", "recalign")
    save(tmp_path, 2, 4)
    with pytest.raises(UserError, match=r"position at step 4 .* does not fit .*--accept_changes"):
        Checkpoints(tmp_path).restore(STATE, Position(error))
    assert names(tmp_path) == ["2", "4"]
    anew = Position(error)
    found = Checkpoints(tmp_path).restore(STATE, anew, accept_changes=True)
    assert_equal(found, numbered(STATE, start=4))
    assert anew.position == 0
    assert str(error) in caplog.text
    assert "resumed at step 4: parameters, optimiser; the input starts anew" in caplog.text
    fits = Position()
    Checkpoints(tmp_path).restore(STATE, fits, accept_changes=True)
    assert fits.position == 7
    assert "parameters, optimiser and position in the input" in caplog.text


@pytest.mark.parametrize("error", [MemoryError("32 GiB"), OSError(5, "Input/output error")])
def test_a_position_that_cannot_be_read_is_raised_as_it_is(save, tmp_path, error):
    save(tmp_path, 2)
    with pytest.raises(type(error)) as raised:
        Checkpoints(tmp_path).restore(STATE, Position(error), accept_changes=True)
    assert raised.value is error


def test_parameters_alone_need_neither_optimiser_nor_input(save, tmp_path):
    """Another optimiser's state would not fit, and what is damaged is not read."""
    save(tmp_path, 2, 4)
    injure(tmp_path, 4, "input/position")
    other = trainer(optax.adam(0.1)).abstract_state
    step, params = Checkpoints(tmp_path, read_only=True).restore_params(other.params)
    assert step == 4
    assert_equal(params, numbered(STATE, start=4).params)
    with pytest.raises(UserError, match=r"opt_state of the checkpoint at step 2 .* does not fit"):
        Checkpoints(tmp_path, read_only=True).restore(other)


def test_conversion_takes_the_newest_that_is_whole_as_well(save, tmp_path, caplog):
    save(tmp_path / "run/checkpoints", 2, 4)
    injure(tmp_path / "run/checkpoints", 4)
    for path in ("run", "run/checkpoints"):
        assert open_weights(tmp_path / path).path == str(tmp_path / "run/checkpoints/2")
    assert "checkpoints/4 is damaged, trying the one before: state/_METADATA" in caplog.text
    with pytest.raises(UserError, match="4 is damaged: state/_METADATA is not what was written"):
        open_weights(tmp_path / "run/checkpoints/4")
    injure(tmp_path / "run/checkpoints", 2)
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged \(steps \[2, 4\]\)"):
        open_weights(tmp_path / "run")


def test_restoring_says_nothing_of_orbax_s_options(save, tmp_path, caplog):
    save(tmp_path, 2)
    caplog.clear()
    Checkpoints(tmp_path, read_only=True).restore_params(STATE.params)
    assert [record.getMessage() for record in caplog.records] == []


def test_saving_asks_for_no_notice_that_the_loop_is_to_hear(tmp_path, monkeypatch):
    """Processes agree on a number of the loop's; Orbax would count by steps, and they miss it."""
    asked = []
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda step: bool(asked.append(step))
    )
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, trainer().init_state(), Position())
    checkpoints.close()
    assert names(tmp_path) == ["1"]
    assert not asked


def test_what_is_closed_leaves_no_filter_behind(tmp_path):
    before = list(logging.getLogger("absl").filters)
    checkpoints = Checkpoints(tmp_path)
    assert logging.getLogger("absl").filters != before
    checkpoints.close()
    Checkpoints(tmp_path, read_only=True)
    assert logging.getLogger("absl").filters == before


# Each process has a folder of its own in the place of its own view of a shared one.
TWO = """
import sys
index, port, mine = int(sys.argv[1]), sys.argv[2], sys.argv[3]
from recalign.engine import processes
processes.join(f"127.0.0.1:{port}", 2, index)
import jax
from pathlib import Path
from recalign.engine.partitioning import Partitioner
from recalign.engine.training.checkpoints import Checkpoints
from recalign.engine.training.trainer import Trainer
from recalign.errors import UserError
from tests.engine.training.test_checkpoints import Position, injure, names, trainer

subject = Trainer(trainer().model, Partitioner())
state = subject.abstract_state

def steps(folder, *arguments, **options):
    try:
        found = Checkpoints(Path(mine) / folder, **options)
        return int(found.restore(state, *arguments).step)
    except UserError as error:
        return str(error)

assert steps("second sees damage") == 4
assert names(Path(mine) / "second sees damage") == ["2", "4"]
assert steps("first sees damage") == 2
seen = names(Path(mine) / "first sees damage")
assert seen == (["2", "damaged_4"] if index == 0 else ["2", "4"]), seen
assert "every checkpoint" in steps("first sees all damaged"), index
found = Checkpoints(Path(mine) / "second sees damage", read_only=True)
assert found.restore_params(state.params)[0] == 4
misfit = Position(ValueError("another graph") if index else None)
assert "--accept_changes" in steps("second sees damage", misfit)
found = Checkpoints(Path(mine) / "second sees damage")
assert int(found.restore(state, misfit, accept_changes=True).step) == 4
assert misfit.position == 0  # in both, though it fits in one

assert processes.decide_once(lambda: [index, "a" * 99]) == [0, "a" * 99]
def fail():
    raise KeyError("lost")
try:
    processes.decide_once(fail)
except (RuntimeError if index else KeyError) as error:
    assert "lost" in str(error)
else:
    raise AssertionError("nothing was raised")

class Share(Position):
    def save(self, path):
        super().save(f"{path}-{index}")
    def restore(self, path):
        super().restore(f"{path}-{index}")

def first_alone():
    assert index == 0
state, share = subject.init_state(), Share()
share.position = index
shared = Checkpoints("gs://bucket/run", keep=1, check=first_alone)
for step in (2, 4):
    shared.save(step, state, share)
shared.close()
share.position = 7
found = Checkpoints("gs://bucket/run")
found.restore(subject.abstract_state, share)
assert share.position == index
found.close()
"""


def test_two_processes_that_see_different_things_do_what_the_first_decides(save, bucket, tmp_path):
    """And in a bucket, which all see the same way, each writes its part, and the first the rest."""
    save(tmp_path / "whole", 2, 4)
    for index in range(2):
        for case, damaged in (
            ("second sees damage", [4] if index else []),
            ("first sees damage", [] if index else [4]),
            ("first sees all damaged", [] if index else [2, 4]),
        ):
            folder = tmp_path / str(index) / case
            shutil.copytree(tmp_path / "whole", folder)
            for step in damaged:
                (folder / str(step) / manifest.MANIFEST).write_text("{")
    port, root = str(free_port()), str(Path(__file__).parents[3])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(index), port, str(tmp_path / str(index))],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": root},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for process in started:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]
    assert manifest.list_steps(resolve("gs://bucket/run")) == [4]
    assert manifest.find_damage(resolve("gs://bucket/run/4")) is None
    whole = json.loads(bucket.read(f"run/4/{manifest.MANIFEST}"))
    assert {"input/position-0", "input/position-1", "state/_METADATA"} <= whole.keys()
    assert bucket.names("run/2/") == []


def test_what_a_training_removes_meanwhile_is_not_damaged(tmp_path, save, monkeypatch):
    """It goes on in another process, keeps its two newest, and the one that is read is neither."""
    save(tmp_path, 2, 4)
    find_damage = manifest.find_damage

    def overtaken(folder, *options):
        if folder.name == "4":
            for step in (2, 4):
                shutil.rmtree(tmp_path / str(step))
            save(tmp_path, 6, 8)
        return find_damage(folder, *options)

    monkeypatch.setattr(manifest, "find_damage", overtaken)
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.restore_params(STATE.params)[0] == 8

    def remove(_, step, wanted):
        shutil.rmtree(tmp_path / str(step))

    monkeypatch.setattr(Checkpoints, "_check_fits", remove)
    with pytest.raises(UserError, match=r"step 8 .* was removed while it was read"):
        reader.restore_params(STATE.params)
