"""Trains for thousands of steps, evaluating and saving: memory stays flat, steps stay as fast.

    recalign prepare toyshop
    recalign cache --gin_file=toyshop.gin --gin.TRAIN_STEPS=200 --output tokens
    python tests/benchmarks/soak.py tokens/train.gin --steps 2000

Prints resident memory at the end of each eighth of the run, and its growth and that of the time of
a step from the second quarter (compiled, caches full) to the last.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax

from recalign.engine.training.trainer import Trainer
from recalign.runs import configuration
from recalign.runs.run import make as make_run

MIB = 2**20


def _resident() -> float:
    """MiB of memory of this process, on Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def main() -> None:
    """Runs the soak."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("gin_file")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--period", type=int, default=50, help="of evaluations and checkpoints")
    parser.add_argument("overrides", nargs="*", help="NAME=VALUE")
    arguments = parser.parse_args()
    seconds, memory = [], []
    make = Trainer.step_fn

    def timed_step_fn(self):
        step = make(self)

        def timed(state, batch):
            begin = time.perf_counter()
            result = jax.block_until_ready(step(state, batch))
            seconds.append(time.perf_counter() - begin)
            memory.append(_resident())
            return result

        return timed

    Trainer.step_fn = timed_step_fn
    with tempfile.TemporaryDirectory() as folder:
        bindings = [
            f"MODEL_DIR={Path(folder) / 'run'}",
            f"TRAIN_STEPS={arguments.steps}",
            f"EVAL_PERIOD={arguments.period}",
            f"CHECKPOINT_PERIOD={arguments.period}",
            *arguments.overrides,
        ]
        configuration.parse([arguments.gin_file], bindings)
        begin = time.perf_counter()
        make_run().train()
        print(f"{arguments.steps} steps, {time.perf_counter() - begin:.0f} s, {jax.devices()[0]}")
    eighth = arguments.steps // 8
    for step in range(eighth, arguments.steps + 1, eighth):
        print(f"step {step:6}: {memory[step - 1]:8.1f} MiB resident")
    for what, values, unit in (("memory", memory, "MiB"), ("a step", seconds, "s")):
        second, last = values[2 * eighth : 4 * eighth], values[6 * eighth :]
        before, after = statistics.median(second), statistics.median(last)
        print(f"{what}: {before:.4f} → {after:.4f} {unit} ({after / before - 1:+.1%}), medians")


if __name__ == "__main__":
    main()
