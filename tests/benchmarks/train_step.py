"""Times a training step, beside T5X's own trainer where T5X is importable.

    python tests/benchmarks/train_step.py                      # the CPU case, float32
    python tests/benchmarks/train_step.py --shape base --dtype bfloat16 --batch 64

Prints device, configuration, seconds a step (median), real tokens a second, model FLOPs and the
share of the device's own matmul peak, measured here, that they are. With T5X the two alternate
within one process, and the median of the pairs' ratios is printed.
"""

import argparse
import statistics
import sys
import time

import jax
import numpy as np

from recalign.engine.network.config import step_flops
from recalign.engine.network.layer_stack import REMAT_POLICIES
from recalign.engine.network.transformer import T5Config, Transformer
from recalign.engine.partitioning import Partitioner
from recalign.engine.training.adafactor import adafactor
from recalign.engine.training.model import EncoderDecoderModel
from recalign.engine.training.trainer import Trainer

VOCABULARY = 32_128
IN_A_ROW = 5  # steps and products that are timed together: a device need not wait for the next


def _shape(emb, heads, layers, mlp, head_dim=64):
    return {
        "vocab_size": VOCABULARY,
        "emb_dim": emb,
        "num_heads": heads,
        "num_encoder_layers": layers,
        "num_decoder_layers": layers,
        "head_dim": head_dim,
        "mlp_dim": mlp,
        "mlp_activations": ("gelu", "linear"),
        "dropout_rate": 0.0,
    }


# Name: architecture, then the default batch and lengths.
SHAPES = {
    "cpu": (_shape(256, 4, 4, 1024), (16, 256, 32)),
    "small": (_shape(512, 6, 8, 1024), (128, 512, 64)),
    "base": (_shape(768, 12, 12, 2048), (64, 512, 64)),
    "large": (_shape(1024, 16, 24, 2816), (32, 512, 64)),
    "xl": (_shape(2048, 32, 24, 5120), (16, 512, 64)),
}


def matmul_peak(dtype: str, size: int, repeats: int = 5) -> float:
    """FLOP/s that one large matmul of this dtype reaches on the device."""
    # Random: on a GPU, products of ones take less power, and so less time.
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    product(a, b).block_until_ready()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready([product(a, b) for _ in range(IN_A_ROW)])
        times.append((time.perf_counter() - start) / IN_A_ROW)
    return 2 * size**3 / min(times)


def random_batch(batch: int, source: int, target: int) -> dict[str, np.ndarray]:
    """Unpacked tokens without padding."""
    stream = np.random.RandomState(0)
    inputs = stream.randint(2, VOCABULARY, (batch, source)).astype(np.int32)
    targets = stream.randint(2, VOCABULARY, (batch, target)).astype(np.int32)
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones_like(targets),
    }


def ours(config: dict, dtype: str, batch: dict):
    """A function that runs `IN_A_ROW` steps of our trainer and waits for them."""
    model = EncoderDecoderModel(Transformer(T5Config(**config, dtype=dtype)), adafactor(1e-3))
    trainer = Trainer(model, Partitioner())
    state, step = trainer.init_state(), trainer.step_fn()
    placed = trainer.partitioner.put_batch(batch)

    def run():
        nonlocal state
        for _ in range(IN_A_ROW):
            state, sums = step(state, placed)
        jax.block_until_ready((state, sums))

    return run


def theirs(config: dict, dtype: str, batch: dict):
    """The same of T5X's, or None where it is not importable."""
    try:
        import seqio
        import t5x.adafactor
        import t5x.models
        import t5x.partitioning
        import t5x.trainer
        import t5x.utils
        from t5x.examples.t5 import network
    except ImportError as error:
        print(f"T5X is not importable ({error}): ours alone", file=sys.stderr)
        return None
    vocabulary = seqio.PassThroughVocabulary(VOCABULARY, eos_id=1)
    model = t5x.models.EncoderDecoderModel(
        module=network.Transformer(network.T5Config(**config, dtype=dtype)),
        input_vocabulary=vocabulary,
        output_vocabulary=vocabulary,
        optimizer_def=t5x.adafactor.Adafactor(1e-3, decay_rate=0.8, step_offset=0),
        z_loss=1e-4,
    )
    partitioner = t5x.partitioning.PjitPartitioner(num_partitions=1)
    initializer = t5x.utils.TrainStateInitializer(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes={name: value.shape for name, value in batch.items()},
        partitioner=partitioner,
    )
    state = initializer.from_scratch(jax.random.PRNGKey(0))
    trainer = t5x.trainer.Trainer(
        model=model,
        train_state=state,
        partitioner=partitioner,
        eval_names=[],
        summary_dir=None,
        train_state_axes=initializer.train_state_axes,
        rng=jax.random.PRNGKey(0),
        learning_rate_fn=t5x.utils.create_learning_rate_scheduler("constant", 1e-3),
        num_microbatches=None,
    )
    trainer.compile_train(batch)

    def run():
        trainer.train(iter([batch] * IN_A_ROW), IN_A_ROW).result()
        jax.block_until_ready(trainer.train_state)

    return run


def seconds(run) -> float:
    """How long a step takes."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) / IN_A_ROW


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--source", type=int)
    parser.add_argument("--target", type=int)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--scan_layers", action="store_true", help="Ours alone.")
    parser.add_argument("--remat_policy", choices=REMAT_POLICIES, default="none", help="Likewise.")
    parser.add_argument("--without_t5x", action="store_true")
    parser.add_argument("--profile", metavar="DIR", help="Write a profile of three of our steps.")
    args = parser.parse_args()
    config, sizes = SHAPES[args.shape]
    given = (args.batch, args.source, args.target)
    rows, source, target = (size or default for size, default in zip(given, sizes, strict=True))
    batch = random_batch(rows, source, target)
    device = jax.devices()[0]
    flops = step_flops(T5Config(**config), rows, source, target)
    print(f"device {device.platform} {device.device_kind}, {args.dtype}, {args.shape} {config}")
    print(f"batch {rows}, lengths {source}/{target}, {flops / 1e9:.0f} GFLOP a step, ", end="")
    print(f"scan_layers={args.scan_layers}, remat_policy={args.remat_policy}")
    peak = matmul_peak(args.dtype, 2048 if device.platform == "cpu" else 8192)
    print(f"matmul peak {peak / 1e9:.0f} GFLOP/s", flush=True)

    memory = {"scan_layers": args.scan_layers, "remat_policy": args.remat_policy}
    mine = ours(config | memory, args.dtype, batch)
    t5x = None if args.without_t5x else theirs(config, args.dtype, batch)
    print(f"compilation and {IN_A_ROW} steps: {seconds(mine) * IN_A_ROW:.1f} s", flush=True)
    if t5x:
        seconds(t5x)
    pairs = [(seconds(mine), seconds(t5x) if t5x else None) for _ in range(args.pairs)]
    median = statistics.median(pair[0] for pair in pairs)
    tokens = rows * (source + target) / median
    print(
        f"recalign: {median:.3f} s a step, {tokens:,.0f} tokens/s, {flops / median / peak:.1%} MFU"
    )
    if t5x:
        print(f"T5X: {statistics.median(pair[1] for pair in pairs):.3f} s a step")
        print(f"recalign / T5X, median of pairs: {statistics.median(a / b for a, b in pairs):.2f}")
    if args.profile:
        with jax.profiler.trace(args.profile):
            for _ in range(3):
                mine()


if __name__ == "__main__":
    main()
