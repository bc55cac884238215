"""Measures the real tokens a second that the input pipeline makes on one core.

    recalign prepare recbole --inter beauty.inter --item beauty.item --name beauty \
        --vocabulary spiece.model
    python tests/benchmarks/input_pipeline.py --domain beauty
    python tests/benchmarks/input_pipeline.py --domain beauty --kinds aligned --processes 1 2 4

Tokens are those of inputs and targets, padding excluded; batches are packed. With `--processes`:
what the first of so many processes spends on its rows of a batch, in as many streams as the most of
them; the first few dozen batches come out of buffers that are filled by then. Linux.
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
    parser.add_argument("--processes", type=int, nargs="*", default=())
    parser.add_argument(
        "--batches", type=int, default=1000, help="so many are timed with processes"
    )
    args = parser.parse_args()
    core = max(os.sched_getaffinity(0))
    # Before TensorFlow starts its threads: they inherit it.
    os.sched_setaffinity(0, {core})
    from recalign.samples.registry import register_domain

    register_domain(args.domain)
    print(f"{args.domain}, lengths {args.inputs}/{args.targets}, batch {args.batch_size}, 1 core")
    for kind in args.kinds:
        if args.processes:
            compare_processes(args, kind)
        else:
            time_tokens(args, kind)


def start(args, kind, **options):
    from recalign.samples import inputs

    lengths = {"inputs": args.inputs, "targets": args.targets}
    batches = inputs.train_batches(f"{args.domain}_{kind}", lengths, args.batch_size, 0, **options)
    for _ in range(8):  # fills the shuffle buffers
        next(batches)
    return batches


def count_tokens(batch):
    return sum(
        int((batch[f"{side}_tokens"] > 0).sum()) for side in ("encoder_input", "decoder_target")
    )


def time_tokens(args, kind):
    batches = start(args, kind)
    tokens = samples = rows = 0
    begin, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < args.seconds:
        batch = next(batches)
        tokens += count_tokens(batch)
        samples += int(batch["decoder_segment_ids"].max(axis=1).sum())
        rows += args.batch_size
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    full = tokens / (rows * (args.inputs + args.targets))
    print(
        f"{kind:>10}: {tokens / wall:9,.0f} tokens/s, {tokens / cpu:9,.0f} a CPU second; "
        f"{samples / cpu:6,.0f} samples a CPU second, {full:.0%} of the row filled "
        f"(load={os.getloadavg()[0]:.1f})",
        flush=True,
    )


def compare_processes(args, kind):
    """CPU seconds of the first process a batch of all; nobody else's load enters these."""
    import numpy as np

    most, alone = max(args.processes), None
    for count in args.processes:
        batches = start(args, kind, streams=most, held=np.arange(args.batch_size // count))
        cpu = time.process_time()
        tokens = sum(count_tokens(next(batches)) for _ in range(args.batches))
        cpu = (time.process_time() - cpu) / args.batches
        alone = cpu if alone is None else alone
        print(
            f"{kind:>10}: {count} processes, {most} streams: {1000 * cpu:7.1f} CPU ms a batch in "
            f"each, {cpu / alone:.2f} of the first line; {tokens / args.batches:,.0f} tokens",
            flush=True,
        )


if __name__ == "__main__":
    main()
