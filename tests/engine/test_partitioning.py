"""Layouts change where numbers are, not what they are; run on 8 simulated devices."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from recalign.engine.partitioning import Partitioner
from recalign.errors import UserError

# The numbers of the largest array of a compiled program, on one device.
LARGEST = """
import math, re

def largest(compiled):
    shapes = re.findall(r"= (?:f32|bf16|s32|pred)\\[([\\d,]+)\\]", compiled.as_text())
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)
"""

# JAX fixes the number of simulated devices when it starts: hence a process of its own.
SCRIPT = """
import jax, jax.numpy as jnp, math, numpy as np, sys
from recalign.engine.training.adafactor import adafactor
from recalign.engine.training.checkpoints import Checkpoints
from recalign.engine.training.hlo import find_collectives
from recalign.engine.training.model import EncoderDecoderModel
from recalign.engine.network.transformer import T5Config, Transformer
from recalign.engine.partitioning import Partitioner
from recalign.engine.training.trainer import Trainer
from recalign.errors import UserError

config = T5Config(vocab_size=256, emb_dim=128, num_heads=8, num_encoder_layers=1,
                  num_decoder_layers=1, head_dim=16, mlp_dim=256, dropout_rate=0.0)
model = EncoderDecoderModel(Transformer(config), adafactor(1e-2), loss_normalizing_factor=100.0)
rng = np.random.default_rng(0)
tokens = lambda *shape: rng.integers(2, 256, shape).astype(np.int32)
batches = [dict(encoder_input_tokens=tokens(8, 16), decoder_input_tokens=tokens(8, 8),
                decoder_target_tokens=tokens(8, 8)) for _ in range(5)]

def losses(partitions, rules, devices, num_microbatches=1):
    partitioner = Partitioner(partitions, rules, jax.devices()[:devices])
    trainer = Trainer(model, partitioner, num_microbatches)
    state, step = trainer.init_state(), trainer.step_fn()
    found = []
    for batch in batches:
        state, sums = step(state, partitioner.put_batch(batch))
        found.append(float(sums["loss"]) / float(sums["weights"]))
    kernel = state.params["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
    return np.array(found), kernel.addressable_shards[0].data.shape

one, whole = losses(1, "replicated", 1)
assert whole == (128, 256) and one[-1] < one[0]
for partitions, rules, shard in [
    (1, "replicated", (128, 256)), (2, "tensor_parallel", (128, 128)),
    (4, "tensor_parallel", (128, 64)), (8, "tensor_parallel", (128, 32)),
    (1, "fully_sharded", (16, 256)), (2, "fully_sharded", (32, 128)),
]:
    many, found = losses(partitions, rules, 8)
    assert found == shard, (partitions, rules, found)
    np.testing.assert_allclose(many, one, rtol=1e-5, err_msg=f"{partitions} {rules}")

# So many rows that activations are larger than parameters: none of all rows is on one device.
def step_of(partitions, rules, devices):
    trainer = Trainer(model, Partitioner(partitions, rules, jax.devices()[:devices]))
    lengths = {"encoder_input_tokens": 64} | {
        f"decoder_{name}": 8 for name in ("input_tokens", "target_tokens", "loss_weights")
    }
    shapes = {n: jax.ShapeDtypeStruct((64, size), jnp.int32) for n, size in lengths.items()}
    shapes = trainer.partitioner.abstract_batch(shapes)
    return trainer.lower_step(shapes).compile()

whole = largest(step_of(1, "replicated", 1))
assert whole >= 64 * 64 * 256
programs = {
    layout: step_of(*layout, 8)
    for layout in [(1, "replicated"), (1, "fully_sharded"), (2, "fully_sharded"),
                   (4, "tensor_parallel")]
}
for layout, program in programs.items():
    part = largest(program)
    assert part <= whole / 4, (layout, part, whole)

# What each preset sends, and nothing beside it. XLA sums an embedding's two gradients apart, and
# those of attention's bias before its buckets are: hence a little more than the parameters.
parameters = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(
    Trainer(model, Partitioner(1, "replicated")).abstract_state.params))
sent = {layout: find_collectives(program.as_text()) for layout, program in programs.items()}

def size(found, *kinds, over=None):
    return sum(one.bytes * times for one, times in found.items()
               if one.kind in kinds and over in (None, one.devices))

def matrices(found, *kinds, over=None):
    return {array for one in found if one.kind in kinds and over in (None, one.devices)
            for array in one.arrays if array.startswith("f32") and "," in array}

# Gradients are summed.
found = sent[1, "replicated"]
assert {one.kind for one in found} == {"all-reduce"}, found
assert parameters < size(found, "all-reduce") < 1.2 * parameters, found

# No matrix is gathered, so the embedding is not: activations of a device's own 32 rows are summed
# over the four that share them, gradients of its own quarter over the two that have it.
found = sent[4, "tensor_parallel"]
others = {one.kind for one in found} - {"all-reduce"}
assert not matrices(found, *others), found
own = {f"f32[{shape}]" for length in (64, 8)
       for shape in (f"32,{length},128", f"{32 * length},128", f"32,{length}", f"32,{length},1")}
assert matrices(found, "all-reduce", over=4) <= own, found
assert parameters / 4 < size(found, "all-reduce", over=2) < 1.2 * parameters / 4, found

# Each parameter is gathered once, and its gradient is summed; looked up, the embedding is either
# gathered too, or tokens are and the activations go to the devices of their rows.
found = sent[1, "fully_sharded"]
looked_up = {one for one in found if one.kind == "all-to-all"}
assert all("token_embedder" in one.where for one in looked_up), found
kinds = {one.kind for one in found.keys() - looked_up}
assert kinds <= {"all-gather", "all-reduce", "reduce-scatter"}, found
assert 0.8 * parameters < size(found, "all-gather") < 1.05 * parameters, found
assert parameters < size(found, "all-reduce", "reduce-scatter") < 1.2 * parameters, found

# The same of a half of each: the whole embedding is nowhere.
found = sent[2, "fully_sharded"]
assert size(found, "all-gather", over=4) < 1.05 * parameters / 2, found
assert "f32[256,128]" not in matrices(found, "all-gather"), found

for devices, asked, rows in [(8, 64, 64), (3, 64, 66), (6, 32, 36), (8, 1, 8), (6, 0, 0)]:
    assert Partitioner(1, "replicated", jax.devices()[:devices]).rows(asked) == rows
try:
    Partitioner(1, "replicated").put_batch({"tokens": tokens(6, 4)})
except UserError as error:
    assert "6 rows" in str(error) and "8 data partitions" in str(error)
else:
    raise AssertionError("6 rows went over 8 devices")

# Rows and whole batches lie alike; one process holds all.
whole = {"tokens": tokens(8, 4)}
for layout in [(1, "replicated"), (4, "tensor_parallel")]:
    partitioner = Partitioner(*layout)
    rows, batch = partitioner.put_rows(whole)["tokens"], partitioner.put_batch(whole)["tokens"]
    assert rows.sharding == batch.sharding
    np.testing.assert_array_equal(rows, batch)

class Position:
    def save(self, path): path.write_text("0")
    def restore(self, path): path.read_text()

def start(partitions, rules, devices):
    partitioner = Partitioner(partitions, rules, jax.devices()[:devices])
    trainer = Trainer(model, partitioner)
    return trainer, trainer.step_fn()

def next_loss(trainer, step, state):
    _, sums = step(state, trainer.partitioner.put_batch(batches[1]))
    return float(sums["loss"])

LAYOUTS = [(1, "replicated", 1), (1, "fully_sharded", 8), (4, "tensor_parallel", 8)]
started = {layout: start(*layout) for layout in LAYOUTS}
for number, written in enumerate(LAYOUTS):
    trainer, step = started[written]
    state, _ = step(trainer.init_state(), trainer.partitioner.put_batch(batches[0]))
    folder = f"{sys.argv[1]}/{number}"
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, state, Position())
    checkpoints.close()
    host = jax.device_get(state)
    expected = next_loss(trainer, step, state)
    for read in LAYOUTS:
        trainer, step = started[read]
        restored = Checkpoints(folder, read_only=True).restore(trainer.abstract_state, Position())
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), host)
        np.testing.assert_allclose(next_loss(trainer, step, restored), expected, rtol=1e-5)

accumulated, _ = losses(1, "replicated", 1, num_microbatches=4)
np.testing.assert_allclose(accumulated, one, rtol=1e-5)
"""


def test_layouts_give_the_losses_of_one_device_send_what_they_must_and_restore_any_other(tmp_path):
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", LARGEST + SCRIPT, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_does_not_fit_the_devices_is_an_error():
    with pytest.raises(UserError, match="num_partitions = 3 does not divide"):
        Partitioner(num_partitions=3)
    with pytest.raises(UserError, match="rules is 'sharded', but must be one of 'replicated'"):
        Partitioner(rules="sharded")


class Device(NamedTuple):
    row: int
    process_index: int


class Meshed(Partitioner):
    """Rows over devices of which each is some process's."""

    def __init__(self, processes_of_rows):
        super().__init__()
        object.__setattr__(self, "processes", processes_of_rows)

    @property
    def data_partitions(self):
        return len(self.processes)

    def sharding(self, *_):
        return self

    def devices_indices_map(self, shape):
        assert shape == (len(self.processes),)
        return {
            Device(row, process): (slice(row, row + 1),)
            for row, processes in enumerate(self.processes)
            for process in processes
        }


@pytest.mark.parametrize(
    ("processes", "held", "own"),
    [
        ([[0], [0], [1], [1]], [[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ([[0], [1], [0], [1]], [[0, 1, 4, 5], [2, 3, 6, 7]], [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ([[0, 1], [0, 1]], [range(8), range(8)], [range(8), []]),
        ([[0, 1], [1, 2]], [range(4), range(8), range(4, 8)], [range(4), range(4, 8), []]),
    ],
    ids=["in a row", "dealt out", "of a model over both", "overlapping"],
)
def test_the_rows_of_each_process_and_those_it_answers_for(monkeypatch, processes, held, own):
    monkeypatch.setattr(jax, "process_count", lambda: len(held))
    for index in range(len(held)):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        found = Meshed(processes).held_rows(8)
        assert [rows.tolist() for rows in found] == [list(held[index]), list(own[index])]
