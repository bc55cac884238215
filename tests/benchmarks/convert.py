"""Measures the peak memory and the time of conversions, on a synthetic checkpoint.

    python tests/benchmarks/convert.py --shape xl --folder /tmp/convert

Writes a T5X checkpoint of random parameters, then converts it to each format and back, each in a
process of its own, and prints the process's peak resident memory above that of one that converts
nothing. Needs a little more than the checkpoint's size on disk, for the Hugging Face folder. Linux.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from etils import epath

SHAPES = {
    "tiny": (64, 2, 2, 128),
    "base": (768, 12, 12, 2048),
    "xl": (2048, 32, 24, 5120),
}


def make(folder: Path, shape: str, dtype: str) -> None:
    """A T5X checkpoint whose parameters repeat one random block, to be compressed soon."""
    from recalign.engine.network.config import T5Config, parameter_shapes
    from recalign.engine.weights import t5x
    from recalign.engine.weights.tensor import Tensor

    emb, heads, layers, mlp = SHAPES[shape]
    config = T5Config(
        vocab_size=32_128,
        emb_dim=emb,
        num_heads=heads,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        mlp_dim=mlp,
    )
    block = np.random.RandomState(0).standard_normal(2**12).astype(dtype)
    tensors = {
        name: Tensor(size, block.dtype, lambda size=size: np.resize(block, size))
        for name, size in parameter_shapes(config).items()
    }
    folder.mkdir(parents=True)
    t5x.write(epath.Path(folder), tensors, {})
    largest = max(tensor.bytes for tensor in tensors.values())
    total = sum(tensor.bytes for tensor in tensors.values())
    print(f"{shape} {dtype}: {total / 2**30:.2f} GiB, largest tensor {largest / 2**30:.3f} GiB")


def measured(*arguments: str) -> tuple[float, float]:
    """Seconds and peak GiB of this script in a process of its own."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, *arguments], check=True, capture_output=True, text=True
    )
    return time.perf_counter() - start, int(done.stdout.split()[-1]) / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="base")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/convert"))
    parser.add_argument("--one", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        from recalign.engine.weights.conversion import convert

        if args.one:
            convert(*args.one)
        # Not getrusage: there a process starts with the peak of the one that started it.
        status = Path("/proc/self/status").read_text()
        print(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
        return
    source = args.folder / "t5x"
    if not source.exists():
        make(source, args.shape, args.dtype)
    _, idle = measured("--one")
    print(f"a process that converts nothing: {idle:.2f} GiB")
    for to, start in (("hf", "t5x"), ("orbax", "t5x"), ("t5x", "hf"), ("t5x", "orbax")):
        out = args.folder / f"{start}_to_{to}"
        came_from = source if start == "t5x" else args.folder / f"t5x_to_{start}"
        seconds, peak = measured("--one", str(came_from), str(out), to)
        print(f"{start:>5} -> {to:<5} {seconds:7.1f} s, peak {peak - idle:.2f} GiB above that")


if __name__ == "__main__":
    main()
