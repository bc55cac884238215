"""Measures the real tokens a second that the input pipeline makes on one core.

    recalign prepare recbole --inter beauty.inter --item beauty.item --name beauty \
        --vocabulary spiece.model
    python tests/benchmarks/input_pipeline.py --domain beauty

Tokens are those of inputs and targets, padding excluded; batches are packed. Linux.
"""

import argparse
import os
import time

KINDS = ("retrieval", "mim", "mlm", "bpr", "aligned")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--domain", default="toyshop")
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--inputs", type=int, default=512)
    parser.add_argument("--targets", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    core = max(os.sched_getaffinity(0))
    # Before TensorFlow starts its threads: they inherit it.
    os.sched_setaffinity(0, {core})
    from recalign.samples import inputs
    from recalign.samples.registry import register_domain

    register_domain(args.domain)
    lengths = {"inputs": args.inputs, "targets": args.targets}
    print(f"{args.domain}, lengths {args.inputs}/{args.targets}, batch {args.batch_size}, 1 core")
    for kind in args.kinds:
        batches = inputs.train_batches(f"{args.domain}_{kind}", lengths, args.batch_size, 0)
        for _ in range(8):  # fills the shuffle buffers
            next(batches)
        tokens = samples = rows = 0
        start, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - start < args.seconds:
            batch = next(batches)
            real = [
                (batch[f"{side}_tokens"] > 0).sum() for side in ("encoder_input", "decoder_target")
            ]
            tokens += int(sum(real))
            samples += int(batch["decoder_segment_ids"].max(axis=1).sum())
            rows += args.batch_size
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        full = tokens / (rows * (args.inputs + args.targets))
        print(
            f"{kind:>10}: {tokens / wall:9,.0f} tokens/s, {tokens / cpu:9,.0f} a CPU second; "
            f"{samples / cpu:6,.0f} samples a CPU second, {full:.0%} of the row filled "
            f"(load={os.getloadavg()[0]:.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
