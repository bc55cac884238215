"""Times the retrieval metrics at the size of Sports: `python tests/benchmarks/metrics.py`."""

import time

import numpy as np

from recalign.evaluation.metrics import full_ranking, remove_seen

USERS, ITEMS, SLOTS, HISTORY = 35_598, 18_357, 20, 8


def best_of(function, *args, runs=7):
    """Milliseconds of the fastest run."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function(*args)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main():
    """Prints a line for each call."""
    rng = np.random.default_rng(0)
    ranked = rng.integers(0, ITEMS, (USERS, SLOTS)).astype(np.int32)
    targets = rng.integers(0, ITEMS, USERS).astype(np.int32)
    offsets = HISTORY * np.arange(USERS + 1)
    events = rng.integers(0, ITEMS, offsets[-1]).astype(np.int32)
    print(f"{USERS} lists of {SLOTS}, catalogue of {ITEMS}")
    print(f"full_ranking     {best_of(full_ranking, ranked, targets, ITEMS):7.1f} ms")
    print(f"remove_seen      {best_of(remove_seen, ranked, offsets, events):7.1f} ms")


if __name__ == "__main__":
    main()
