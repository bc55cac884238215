#!/usr/bin/env python3
"""The sizing table of launch/README.md: which slices a model fits on, from compiling alone.

    pip install -c constraints.txt "jax[tpu]"     # libtpu compiles for TPUs that are not here
    launch/sizing.py                              # minutes a row, no TPU, no data

Memory is what XLA's TPU compiler says of one chip; time is arithmetic: the model's FLOPs at 40 % of
the chips' peak, which is a good utilisation and not a measurement.
"""

import dataclasses
import math
import os
import re
import subprocess
import sys

UTILISATION = 0.4
CHIPS = {  # GiB of memory and bfloat16 FLOP/s, https://cloud.google.com/tpu/docs/system-architecture
    "v5e": (16, 197e12),
    "v5p": (95, 459e12),
    "v6e": (32, 918e12),
}
TYPES = {  # what gcloud calls a topology; a v5p chip counts as two
    "v5e:2x2": "v5litepod-4",
    "v5e:2x4": "v5litepod-8",
    "v5e:4x4": "v5litepod-16",
    "v5e:4x8": "v5litepod-32",
    "v5p:2x2x1": "v5p-8",
    "v5p:2x2x2": "v5p-16",
    "v6e:2x2": "v6e-4",
    "v6e:2x4": "v6e-8",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A recipe on a slice.

    Attributes:
      model: of gin/models.
      topology: a key of `TYPES`.
      batch: rows, packed.
      rules: how parameters are laid out.
      remat: what the backward pass recomputes.
      inputs: their length.
      targets: their length.
    """

    model: str
    topology: str
    batch: int = 128
    rules: str = "replicated"
    remat: str = "none"
    inputs: int = 512
    targets: int = 128

    def command(self) -> list[str]:
        """The dry run of it. Scanned layers compile in a fraction of the time."""
        lengths = {"inputs": self.inputs, "targets": self.targets}
        return [
            *("recalign", "train", "--dry_run", f"--topology={self.topology}"),
            *(f"--gin_file=models/{self.model}.gin", "--gin_file=runs/train.gin"),
            f"--gin.TASK_FEATURE_LENGTHS={lengths}",
            f"--gin.BATCH_SIZE={self.batch}",
            f"--gin.Partitioner.rules={self.rules}",
            *("--gin.SCAN_LAYERS=True", f"--gin.REMAT_POLICY={self.remat}"),
        ]


ROWS = (
    Row("flan_t5_base", "v5e:2x2", 32),
    Row("flan_t5_base", "v5e:2x4"),
    Row("flan_t5_base", "v6e:2x2"),
    Row("flan_t5_xl", "v5e:4x4", 64, "fully_sharded", "minimal"),
    Row("flan_t5_xl", "v5e:4x4", 128, "fully_sharded", "full"),
    Row("flan_t5_xl", "v6e:2x4", 128, "fully_sharded", "full"),
    Row("flan_t5_xl", "v5p:2x2x1", 128, "fully_sharded", "minimal"),
    Row("flan_t5_xl", "v5p:2x2x2", 128, "fully_sharded", "full"),
)
HEADER = (
    "model | slice | batch x inputs + targets | layout, remat | parameters | optimiser | all | of"
    " | fits | a step at 40 % | a search | its TFLOPs"
)


def main() -> int:
    """Prints the table, row by row."""
    print(f"| {HEADER} |\n|{'---|' * len(HEADER.split(' | '))}", flush=True)
    for row in ROWS:
        print(f"| {' | '.join(cells(row))} |", flush=True)
    return 0


def cells(row: Row) -> list[str]:
    """A line of the table."""
    memory, peak = CHIPS[row.topology.partition(":")[0]]
    head = [
        row.model,
        f"{TYPES[row.topology]} ({row.topology})",
        f"{row.batch} x {row.inputs} + {row.targets}",
        f"{row.rules}, {row.remat}",
    ]
    # There is no TPU that two processes could not share.
    environment = {**os.environ, "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run(
        row.command(), env=environment, capture_output=True, text=True, check=False
    )
    if "RESOURCE_EXHAUSTED" in done.stderr or "Ran out of memory" in done.stderr:
        return [*head, "", "", "more", f"{memory} GiB", "**no**", "", "", ""]
    if done.returncode:
        raise SystemExit(done.stderr)
    found = read(done.stdout)
    seconds = found["FLOPs of a step"] / (chips(row.topology) * peak * UTILISATION)
    sizes = [found[name] for name in ("parameters GiB", "optimiser", "memory of a device")]
    fits = "yes" if sizes[-1] < memory else "**no**"
    return [
        *head,
        *(f"{size:.2f}" for size in sizes),
        *(f"{memory} GiB", fits, f"{seconds:.2f} s"),
        f"{found['memory of a search']:.2f}",
        f"{found['FLOPs of a search'] / 1e12:.1f}",
    ]


def chips(topology: str) -> int:
    """How many a topology has: `v5e:2x4` has 8."""
    return math.prod(map(int, topology.partition(":")[2].split("x")))


def read(report: str) -> dict[str, float]:
    """The numbers of a dry run by their names; a chip's parameters are in GiB, not counted."""
    lines = re.findall(r"^ *(\D+?) +([\d.,e+]+)( GiB)?", report, re.MULTILINE)
    return {
        f"{name}{unit}" if name == "parameters" else name: float(value.replace(",", ""))
        for name, value, unit in lines
    }


if __name__ == "__main__":
    sys.exit(main())
