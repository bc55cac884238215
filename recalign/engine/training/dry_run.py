"""What a training step would take, from compiling it: no data, no step, not even the device.

XLA compiles the step of the real recipe for a mesh of devices that need not be there, simulated
CPUs or, where libtpu is installed, any TPU topology, and tells its memory and arithmetic.
"""

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from recalign.engine.network.config import step_flops
from recalign.engine.training.trainer import Trainer
from recalign.errors import UserError

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a step takes; bytes are those of one device.

    Attributes:
      devices: their kind and number.
      mesh: devices along "data" and "model".
      parameters: how many numbers.
      parameter_bytes: of the parameters' part on a device.
      optimizer_bytes: of the optimiser's part.
      batch_bytes: of the batch's part.
      temporary_bytes: activations, gradients and what else the step needs while it runs.
      model_flops: multiply-adds × 2 of the whole step, of all devices, nothing recomputed.
      device_flops: what XLA counts for one device, recomputation included; it counts the body of a
        loop once, so that scanned layers (SCAN_LAYERS) and microbatches hide most of them.
    """

    devices: str
    mesh: dict[str, int]
    parameters: int
    parameter_bytes: int
    optimizer_bytes: int
    batch_bytes: int
    temporary_bytes: int
    model_flops: float
    device_flops: float

    @property
    def total_bytes(self) -> int:
        """All that a device must hold at once; the step updates the state in place."""
        return self.parameter_bytes + self.optimizer_bytes + self.batch_bytes + self.temporary_bytes

    def __str__(self):
        rows = [
            ("devices", f"{self.devices}, mesh {_times(self.mesh)}"),
            ("parameters", f"{self.parameters:,}"),
            ("memory of a device", f"{self.total_bytes / GIB:.3f} GiB"),
            ("  parameters", f"{self.parameter_bytes / GIB:.3f} GiB"),
            ("  optimiser", f"{self.optimizer_bytes / GIB:.3f} GiB"),
            ("  batch", f"{self.batch_bytes / GIB:.3f} GiB"),
            ("  temporaries", f"{self.temporary_bytes / GIB:.3f} GiB"),
            ("FLOPs of a step", f"{self.model_flops:.4g}"),
            ("  XLA, a device", f"{self.device_flops:.4g} (loop bodies counted once)"),
        ]
        return "\n".join(f"{name:<20}{value}" for name, value in rows)


def use_topology(topology: str) -> list[jax.Device]:
    """The devices of a topology, which need not exist; call it before JAX touches a device.

    Args:
      topology: 'cpu:N' for N simulated CPUs, else as libtpu names it ('v5e:2x4', 'v4:2x2x1').

    Raises:
      UserError: it is none, or libtpu is not installed.
    """
    jax.config.update("jax_platforms", "cpu")
    if match := re.fullmatch(r"cpu:(\d+)", topology):
        jax.config.update("jax_num_cpu_devices", int(match[1]))
        return jax.devices()
    # libtpu would otherwise ask a metadata server which TPU this machine has.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    try:
        return list(topologies.get_topology_desc(topology, platform="tpu").devices)
    except Exception as error:  # libtpu raises whatever its bindings raise
        raise UserError(
            f"--topology {topology}: {str(error).splitlines()[0]}; expected cpu:N, or a TPU "
            "topology such as v5e:2x4, for which libtpu must be installed (pip install libtpu)"
        ) from error


def measure(trainer: Trainer, shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """Compiles the step of a trainer.

    Args:
      trainer: the model and its layout.
      shapes: of the features of a batch, which are int32.
    """
    state = trainer.abstract_state()
    batch = trainer.partitioner.abstract_batch(
        {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
    )
    with trainer.partitioner.activate():
        compiled = trainer.step_fn().lower(state, batch).compile()
    rows, source = batch["encoder_input_tokens"].shape
    target = batch["decoder_target_tokens"].shape[1]
    mesh = trainer.partitioner.mesh
    return Sizes(
        devices=f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        mesh=dict(mesh.shape),
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)),
        parameter_bytes=_bytes(state.params),
        optimizer_bytes=_bytes(state.opt_state),
        batch_bytes=_bytes(batch),
        temporary_bytes=compiled.memory_analysis().temp_size_in_bytes,
        model_flops=step_flops(trainer.model.module.config, rows, source, target),
        device_flops=compiled.cost_analysis()["flops"],
    )


def _bytes(tree: Any) -> int:
    """How much of a tree of laid-out shapes is on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _times(mesh: dict[str, int]) -> str:
    return " x ".join(f"{size} {name}" for name, size in mesh.items())
