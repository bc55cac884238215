"""Times the ranking of a test split: users a second of `recalign eval`'s search, by its options.

    python tests/benchmarks/ranking.py --gin_file beauty_tiny.gin --users 2048 \
        --options "length_multiple=128" "length_multiple=16" "length_multiple=16,batch_size=256"

Parameters are random: they change no cost but when a search may stop. The options take turns, after
one round to compile; a line tells the fastest round of each.
"""

import argparse
import os
import time

import jax
import numpy as np

from recalign import configuration
from recalign.evaluation.examples import RetrievalExamples


def options_of(text: str) -> dict[str, int]:
    """The options of a `Retriever`, written "name=number,name=number"."""
    pairs = (part.split("=") for part in text.split(",") if part)
    return {name: int(value) for name, value in pairs}


def main():
    """Prints a line for each set of options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gin_file", default="beauty_tiny.gin")
    parser.add_argument("--users", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--options", nargs="+", default=[""])
    args = parser.parse_args()

    import gin

    from recalign import runs

    configuration.parse([args.gin_file], ["MODEL_DIR=unused"])
    run = gin.get_configurable(runs.Run)()
    [examples] = [
        found
        for found in run.examples(split="test")
        if isinstance(found, RetrievalExamples) and found.ask
    ]
    chosen = np.random.default_rng(0).permutation(len(examples))[: args.users]
    histories = [examples.events[slice(*examples.offsets[e : e + 2])] for e in chosen]
    question = (
        [examples.inputs[e] for e in chosen],
        np.cumsum([0, *map(len, histories)]),
        np.concatenate(histories),
    )
    params = run.trainer.init_state().params
    made = {
        text: run.retriever(
            module=run.trainer.model.module,
            partitioner=run.trainer.partitioner,
            catalogue=examples.catalogue,
            **options_of(text),
        )
        for text in args.options
    }
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, {os.cpu_count()} CPUs, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}; {args.users} of {len(examples)} users")
    best = dict.fromkeys(made, float("inf"))
    for number in range(args.rounds + 1):
        for text, retriever in made.items():
            start = time.perf_counter()
            retriever.rank(params, *question)
            spent = time.perf_counter() - start
            if number:
                best[text] = min(best[text], spent)
            else:
                print(f"  {text or 'as configured'}: {spent:.1f} s with compilation")
    for text, spent in best.items():
        print(f"  {text or 'as configured'}: {spent:.1f} s, {args.users / spent:.0f} users/s")


if __name__ == "__main__":
    main()
