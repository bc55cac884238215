"""What a training step and a search would take, from compiling them: no data, not even a device.

XLA compiles the programs of the real recipe for a mesh of devices that need not be there, simulated
CPUs or, where libtpu is installed, any TPU topology, and tells its memory and arithmetic.
"""

import dataclasses
import functools
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from recalign.engine.network.config import search_flops, step_flops
from recalign.engine.search.batching import rung
from recalign.engine.search.beam_search import live_sizes
from recalign.engine.search.catalogue_model import SEEN
from recalign.engine.search.inference import Inference
from recalign.engine.search.retrieval import retrieve
from recalign.engine.search.trie import EOS, CatalogueIndex
from recalign.engine.training.trainer import Trainer
from recalign.errors import UserError

GIB = 1 << 30
# Stands in for the catalogue, whose data need not be there: ten thousand items of four digits. What
# a search takes depends little on the items, unless they are millions or their titles are written.
DIGITS = 4


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
      hlo: XLA's text of the compiled step, for `hlo.explain`.
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
    hlo: str = dataclasses.field(repr=False)

    @property
    def total_bytes(self) -> int:
        """All that a device must hold at once; the step updates the state in place."""
        return self.parameter_bytes + self.optimizer_bytes + self.batch_bytes + self.temporary_bytes

    def __str__(self):
        rows = [
            ("devices", f"{self.devices}, mesh {_times(self.mesh)}"),
            ("parameters", f"{self.parameters:,}"),
            ("memory of a device", self.total_bytes),
            ("  parameters", self.parameter_bytes),
            ("  optimiser", self.optimizer_bytes),
            ("  batch", self.batch_bytes),
            ("  temporaries", self.temporary_bytes),
            ("FLOPs of a step", f"{self.model_flops:.4g}"),
            ("  XLA, a device", f"{self.device_flops:.4g} (loop bodies counted once)"),
        ]
        return _format(rows)


@dataclasses.dataclass(frozen=True)
class SearchSizes:
    """What ranking the catalogue takes for a batch, all items and unseen ones.

    Attributes:
      histories: of the batch.
      source: tokens of each.
      num_beams: items in a ranking.
      items: of the catalogue that stands in for the real one.
      parameter_bytes: of the parameters' part on a device.
      index_bytes: of the catalogue's trie, whole on each device.
      temporary_bytes: activations, caches and logits.
      model_flops: multiply-adds × 2 of the network, of all devices.
      device_flops: as in `Sizes`.
      hlo: likewise.
    """

    histories: int
    source: int
    num_beams: int
    items: int
    parameter_bytes: int
    index_bytes: int
    temporary_bytes: int
    model_flops: float
    device_flops: float
    hlo: str = dataclasses.field(repr=False)

    @property
    def total_bytes(self) -> int:
        """All that a device must hold at once; an optimiser's state in training comes on top."""
        return self.parameter_bytes + self.index_bytes + self.temporary_bytes

    def __str__(self):
        asked = f"{self.histories} histories of {self.source} tokens, {self.num_beams} beams"
        rows = [
            ("search", asked),
            ("  catalogue", f"{self.items:,} items of {DIGITS} tokens, in place of the real one"),
            ("memory of a search", self.total_bytes),
            ("  its parameters", self.parameter_bytes),
            ("  its index", self.index_bytes),
            ("  its temporaries", self.temporary_bytes),
            ("FLOPs of a search", f"{self.model_flops:.4g}"),
            ("  XLA, its device", f"{self.device_flops:.4g} (loop bodies counted once)"),
        ]
        return _format(rows)


def use_topology(topology: str) -> list[jax.Device]:
    """The devices of a topology, which need not exist; call it before JAX touches a device.

    Args:
      topology: 'cpu:N' for N simulated CPUs, else as libtpu names it ('v5e:2x4', 'v4:2x2x1').

    Raises:
      UserError: it is none, or libtpu is not installed.
    """
    jax.config.update("jax_platforms", "cpu")
    if match := re.fullmatch(r"cpu:([1-9]\d*)", topology):
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
    """Compiles the step of a trainer for features int32 of some shapes."""
    state = trainer.abstract_state
    batch = trainer.partitioner.abstract_batch(
        {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
    )
    compiled = trainer.lower_step(batch).compile()
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
        hlo=compiled.as_text(),
    )


def measure_search(trainer: Trainer, options: Inference, source: int) -> SearchSizes:
    """Compiles the search by which a trainer's model is evaluated.

    A beam is measured, whatever `exact` says; `source` is the length of inputs.
    """
    module, partitioner = trainer.model.module, trainer.partitioner
    params = trainer.abstract_state.params
    everywhere = partitioner.sharding()
    tokens = [(*item, EOS) for item in itertools.product(range(2, 12), repeat=DIGITS)]
    index = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        CatalogueIndex.build(tokens),
    )
    rows = partitioner.rows(options.batch_size)
    source = rung(source, options.length_multiple, halfway=True)
    batch = partitioner.abstract_batch(
        {
            "inputs": jax.ShapeDtypeStruct((rows, source), jnp.int32),
            "seen": jax.ShapeDtypeStruct((rows, SEEN), jnp.int32),
        }
    )
    chosen = {"num_beams": options.num_beams, "renormalise": options.renormalise}
    search = functools.partial(retrieve, module, **chosen)
    compiled = (
        partitioner.compile(search, out_shardings=everywhere)
        .lower({"params": params}, batch["inputs"], index, exclusions=(None, batch["seen"]))
        .compile()
    )
    logits = len(index.alphabet) if options.renormalise else module.config.vocab_size
    widths = [min(options.num_beams, size) for size in live_sizes(index, options.renormalise)]
    return SearchSizes(
        histories=rows,
        source=source,
        num_beams=options.num_beams,
        items=index.num_items,
        parameter_bytes=_bytes(params),
        index_bytes=_bytes(index),
        temporary_bytes=compiled.memory_analysis().temp_size_in_bytes,
        model_flops=search_flops(module.config, rows, source, widths, logits, rankings=2),
        device_flops=compiled.cost_analysis()["flops"],
        hlo=compiled.as_text(),
    )


def _format(rows: Sequence[tuple[str, str | int]]) -> str:
    """A line a row; a number is one of bytes."""
    return "\n".join(
        f"{name:<20}{value if isinstance(value, str) else f'{value / GIB:.3f} GiB'}"
        for name, value in rows
    )


def _bytes(tree: Any) -> int:
    """How much of a tree of laid-out shapes is on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _times(mesh: dict[str, int]) -> str:
    return " x ".join(f"{size} {name}" for name, size in mesh.items())
