"""Times building, keeping and opening the index of a catalogue; tells how much memory it takes.

    python tests/benchmarks/index.py                                  # 10 million items of 8 tokens
    python tests/benchmarks/index.py --items 1000000 --tokens 6 --branching 100

Items are distinct random sequences over `--branching` tokens at each place, so that they share
prefixes as ids of that many digits would; EOS follows.
"""

import argparse
import os
import resource
import tempfile
import time

import jax
import numpy as np

from recalign.engine.search.saved_trie import index_of
from recalign.engine.search.trie import EOS, CatalogueIndex

FIRST_TOKEN = 100
GIB = 2**30


def sequences(items: int, tokens: int, branching: int, seed: int = 0) -> np.ndarray:
    """int32[items, tokens + 1]: distinct random sequences, in random order, EOS last."""
    if items > branching**tokens:
        raise SystemExit(f"there are only {branching**tokens} sequences: raise --branching")
    rng = np.random.default_rng(seed)
    numbers = np.unique(rng.integers(branching**tokens, size=items + items // 8))
    while len(numbers) < items:
        more = rng.integers(branching**tokens, size=items)
        numbers = np.unique(np.concatenate([numbers, more]))
    numbers = rng.permutation(numbers)[:items]
    found = np.full((items, tokens + 1), EOS, np.int32)
    for place in reversed(range(tokens)):
        numbers, found[:, place] = np.divmod(numbers, branching)
        found[:, place] += FIRST_TOKEN
    return found


def peak_memory() -> float:
    """The most memory this process has held so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def main():
    """Prints sizes, seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--tokens", type=int, default=8, help="an item, EOS apart")
    parser.add_argument("--branching", type=int, default=20, help="different tokens at each place")
    args = parser.parse_args()
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} CPUs, load {load}, numpy {np.__version__}, jax {jax.__version__}")
    catalogue = sequences(args.items, args.tokens, args.branching)
    held = peak_memory()
    start, cpu = time.perf_counter(), time.process_time()
    index = CatalogueIndex.build(catalogue)
    spent, cpu = time.perf_counter() - start, time.process_time() - cpu
    size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(index))
    print(f"{args.items} items of {args.tokens} tokens, {catalogue.nbytes / GIB:.2f} GiB")
    print(f"{sum(index.level_sizes)} prefixes, index of {size / GIB:.2f} GiB")
    print(f"built in {spent:.1f} s ({cpu:.1f} s of processor time)")
    print(f"peak memory {peak_memory():.2f} GiB, {held:.2f} GiB of it before building")
    del index
    with tempfile.TemporaryDirectory() as folder:
        for what in ("built and kept", "opened: fingerprint and checksum"):
            start = time.perf_counter()
            index_of(catalogue, folder)
            print(f"{what} in {time.perf_counter() - start:.1f} s")
    print(f"peak memory {peak_memory():.2f} GiB")


if __name__ == "__main__":
    main()
