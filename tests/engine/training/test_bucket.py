"""A checkpoint in a bucket is whole or none, whatever fails, and knows it without being read."""

import contextlib

import jax
import numpy as np
import pytest
from flax import traverse_util

from recalign.engine.network.transformer import Transformer
from recalign.engine.partitioning import Partitioner
from recalign.engine.training import events
from recalign.engine.training.adafactor import adafactor
from recalign.engine.training.checkpoints import Checkpoints
from recalign.engine.training.model import EncoderDecoderModel
from recalign.engine.training.trainer import Trainer
from recalign.engine.weights import manifest
from recalign.engine.weights.conversion import open_weights, write_weights
from recalign.errors import UserError
from recalign.files import list_files, locate, resolve
from recalign.runs.report.events import read_scalars
from tests.buckets import cutting, refusing, slow
from tests.engine.smallest import CONFIG

FOLDER = "gs://bucket/run/checkpoints"
TRAINER = Trainer(
    EncoderDecoderModel(Transformer(CONFIG), adafactor(0.1)),
    Partitioner(devices=jax.devices()[:1]),
)
WANTED = TRAINER.abstract_state


class Position:
    """An input that writes its position to local disk alone, as TensorFlow's does here."""

    def __init__(self, position=0):
        self.position = position

    def save(self, path):
        with open(path, "w") as file:
            file.write(str(self.position))

    def restore(self, path):
        with open(path) as file:
            self.position = int(file.read())


@pytest.fixture(scope="module")
def fresh():
    return TRAINER.init_state()


def numbered(state, start):
    """A state of whose every value is known: leaf i counts from `start` + i."""
    leaves, tree = jax.tree.flatten(state)
    values = [np.arange(leaf.size).reshape(leaf.shape) + start + i for i, leaf in enumerate(leaves)]
    placed = [
        jax.device_put(value.astype(leaf.dtype), leaf.sharding)
        for value, leaf in zip(values, leaves, strict=True)
    ]
    return tree.unflatten(placed)


def save(fresh, *steps, **options):
    """Saves numbered states, each from its step."""
    checkpoints = Checkpoints(FOLDER, **options)
    for step in steps:
        checkpoints.save(step, numbered(fresh, step), Position(step))
    checkpoints.close()


def restore(step=None):
    """The state, and where it moved the input."""
    checkpoints, position = Checkpoints(FOLDER), Position()
    try:
        return checkpoints.restore(WANTED, position, step), position.position
    finally:
        checkpoints.close()


def steps():
    return manifest.list_steps(resolve(FOLDER))


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


def test_states_come_back_and_old_ones_go(fresh, bucket):
    save(fresh, 2, 4, 6, keep=1)
    assert steps() == [6]
    assert not bucket.names("run/checkpoints/2/")
    state, position = restore()
    assert_equal(state, numbered(fresh, 6))
    assert position == 6


def test_parameters_go_from_a_bucket_into_one_in_every_format(fresh, bucket):
    save(fresh, 2)
    source = "gs://bucket/run"
    for to in ("t5x", "orbax", "hf"):  # which is the fastest to be read tensor by tensor
        write_weights(open_weights(source), f"gs://bucket/{to}", to)
        source = f"gs://bucket/{to}"
    found = open_weights(source)
    assert found.path == "gs://bucket/hf"
    expected = traverse_util.flatten_dict(numbered(fresh, 2).params, sep="/")
    assert found.tensors.keys() == expected.keys()
    for name, tensor in found.tensors.items():
        np.testing.assert_array_equal(tensor.read(), expected[name], err_msg=name)


def test_a_bucket_that_falters_gets_it_whole(fresh, bucket):
    """TensorStore and gcsfs ask again, each in its own way; gcsfs at most five times.

    One request may meet all faults.
    """
    with bucket.failing(refusing(2, of=lambda r: r.is_upload)), bucket.failing(cutting(3)):
        save(fresh, 2)
    assert manifest.find_damage(resolve(FOLDER) / "2") is None
    assert_equal(restore()[0], numbered(fresh, 2))


def test_what_is_cut_off_is_no_checkpoint_and_makes_room_for_one(fresh, bucket):
    save(fresh, 2)
    whole = bucket.names("run/checkpoints/2/")
    last = "run/checkpoints/4/commit_success.txt"
    with (
        bucket.failing(refusing(9, 403, lambda r: r.is_upload and r.object == last)),
        pytest.raises(Exception, match="Forbidden"),
    ):
        save(fresh, 4)
    assert bucket.names("run/checkpoints/4/")
    assert steps() == [2]
    assert open_weights("gs://bucket/run").path == f"{FOLDER}/2"
    with pytest.raises(UserError, match=r"holds no step 4: there are \[2\]"):
        restore(4)
    assert_equal(restore()[0], numbered(fresh, 2))
    save(fresh, 4)
    assert steps() == [2, 4]
    assert bucket.names("run/checkpoints/2/") == whole


def test_what_was_cut_off_is_gone_before_anything_is_written(bucket):
    bucket.write("run/checkpoints/4/state/_METADATA", b"{")
    removals = slow(1.0, lambda r: r.command == "DELETE" or r.path.startswith("/batch/"))
    with bucket.failing(removals):
        Checkpoints(FOLDER).close()
    assert bucket.names() == []


def test_a_removal_that_is_cut_off_leaves_no_checkpoint(fresh, bucket):
    save(fresh, 2)
    removals = refusing(99, 403, lambda r: r.command == "DELETE" and "/state/" in r.object)
    with bucket.failing(removals) as struck, contextlib.suppress(OSError):
        save(fresh, 4, 6, keep=1)
    assert struck
    assert bucket.names("run/checkpoints/2/")
    assert 2 not in steps()


def test_damage_is_passed_over_and_set_aside(fresh, bucket, caplog):
    save(fresh, 2, 4)
    newest = resolve(FOLDER) / "4"
    name = max(bucket.names("run/checkpoints/4/state/d/"), key=lambda n: len(bucket.read(n)))
    content = bucket.read(name)
    bucket.write(name, content[::-1])
    assert manifest.find_damage(newest).endswith("is not what was written")
    bucket.write(name, content[:-1])
    assert "bytes where" in manifest.find_damage(newest)
    bucket.remove(name)
    assert manifest.find_damage(newest).endswith("is missing")
    state, position = restore()
    assert_equal(state, numbered(fresh, 2))
    assert position == 2
    assert "the checkpoint at step 4 is damaged" in caplog.text
    assert bucket.names("run/checkpoints/damaged_4/")
    assert steps() == [2]


def test_damage_is_looked_for_without_reading(fresh, bucket):
    save(fresh, 2)
    contents = refusing(
        99, 403, lambda r: r.query.get("alt") == "media" and manifest.MANIFEST not in r.object
    )
    with bucket.failing(contents) as struck:
        assert manifest.find_damage(resolve(FOLDER) / "2") is None
    assert struck == []


def test_a_directory_that_is_another_process_s_is_not_written_to(fresh, bucket):
    def check():
        raise UserError("another one trains here")

    for step in (2, 4):
        bucket.write(f"run/checkpoints/{step}/{manifest.COMMITTED}", b"")
    there = bucket.names()
    for saved in ((6,), ()):
        with pytest.raises(UserError, match="another one trains here"):
            save(fresh, *saved, keep=1, check=check)
    assert bucket.names() == there


def test_a_checkpoint_that_was_being_written_is_not_committed_by_who_lost_the_lease(fresh, bucket):
    """Whoever has it by now may have removed half of the files."""
    asked = []

    def check():
        asked.append(bucket.names("run/checkpoints/2/state/"))
        if asked[-1]:
            raise UserError("another one trains here by now")

    with pytest.raises(UserError, match="another one trains here by now"):
        save(fresh, 2, check=check)
    assert [bool(files) for files in asked] == [False, False, True]  # removing, writing, committing
    assert not [n for n in bucket.names() if n.endswith("manifest.json")]
    assert steps() == []


def test_a_position_that_cannot_be_read_is_not_one_that_does_not_fit(fresh, bucket):
    save(fresh, 2)
    position = refusing(99, 401, lambda r: r.query.get("alt") == "media" and "/input/" in r.object)
    with bucket.failing(position) as struck, pytest.raises(OSError, match="HttpError"):
        restore()
    assert struck


def test_a_run_on_local_disk_may_be_copied_into_a_bucket(fresh, bucket, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, numbered(fresh, 2), Position(2))
    checkpoints.close()
    for name in list_files(tmp_path):
        bucket.write(f"run/checkpoints/{name}", (tmp_path / name).read_bytes())
    assert manifest.find_damage(resolve(FOLDER) / "2") is None
    state, position = restore()
    assert_equal(state, numbered(fresh, 2))
    assert position == 2
    save(fresh, 4, keep=1)
    assert steps() == [4]


def test_curves_are_put_from_time_to_time_and_in_the_end(bucket, monkeypatch, caplog):
    monkeypatch.setattr(events, "PERIOD", 1e6)
    folder, uploads = "gs://bucket/run", []

    def note(request):
        uploads.extend([request.object] * request.is_upload)
        return False

    with bucket.failing(note), events.open_writer(folder, 0) as writer:
        for step in range(1, 21):
            writer.add_scalar("train/loss", 1 / step, step)
            writer.flush()
        assert len(uploads) == 1
        with bucket.failing(refusing(99, 403, lambda request: request.is_upload)):
            writer.close()
    assert "could not be written this time" in caplog.text
    with events.open_writer(folder, 10) as writer:
        writer.add_scalar("train/loss", 7.0, 11)
    assert read_scalars(locate(folder))["train/loss"][11] == 7.0
