"""Times the ranking of a test split: users a second of `recalign eval`'s search, by its options.

    python tests/benchmarks/ranking.py --gin_file beauty_small.gin
    python tests/benchmarks/ranking.py --gin_file beauty_small.gin --users 2048 \
        --options length_multiple=128 length_multiple=64 length_multiple=16,batch_size=256

Without `--options` the recipe's own are compared with what is straightforward: every input padded
to the length that TASK_FEATURE_LENGTHS gives it. Each set of options ranks all users, twice each as
`recalign eval` does; they take turns after every `--turn` users, so that a busy machine slows all
of them. A first round, which compiles, is not counted. Parameters are random: they change no cost
but when a search may stop.
"""

import argparse
import dataclasses
import os
import time
from collections.abc import Sequence

import gin
import jax
import numpy as np

from recalign.evaluation.examples import RetrievalExamples
from recalign.runs import configuration
from recalign.runs.run import make


def options_of(text: str) -> dict[str, int]:
    """Options of `Inference`, written "name=number,name=number"."""
    pairs = (part.split("=") for part in text.split(",") if part)
    return {name: int(value) for name, value in pairs}


def question_of(examples: RetrievalExamples, chosen: Sequence[int]) -> tuple:
    """What `CatalogueModel.rank` is asked for some of the examples."""
    histories = [examples.events[slice(*examples.offsets[e : e + 2])] for e in chosen]
    offsets = np.cumsum([0, *map(len, histories)])
    return [examples.inputs[e] for e in chosen], offsets, np.concatenate(histories)


def seconds(model, params, question) -> float:
    """How long it takes to rank for every user of a question."""
    start = time.perf_counter()
    model.rank(params, *question)
    return time.perf_counter() - start


def main():
    """Prints a table with a row for each set of options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gin_file", default="beauty_small.gin")
    parser.add_argument("--users", type=int, help="so many of them, drawn at random; else all")
    parser.add_argument("--turn", type=int, default=2048, help="users")
    parser.add_argument("--options", nargs="+")
    args = parser.parse_args()

    configuration.parse([args.gin_file], ["MODEL_DIR=unused"])
    whole = gin.query_parameter("%TASK_FEATURE_LENGTHS")["inputs"]
    run = make()
    examples = run.retrieval_examples("test", None)
    models = {}
    for text in args.options or [f"length_multiple={whole}", ""]:
        options = dataclasses.replace(run.inference, **options_of(text))
        told = dataclasses.replace(run, inference=options)
        models[text or "as configured"] = told.evaluation.catalogue_model(examples)
    params = run.trainer.init_state().params
    chosen = np.random.default_rng(0).permutation(len(examples))[: args.users]
    tokens = np.array([len(examples.inputs[e]) for e in chosen])
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, {os.cpu_count()} CPUs, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}; {args.gin_file}, {len(chosen):,} of {len(examples):,} ")
    print(f"users, inputs of {tokens.mean():.1f} tokens, at most {tokens.max()}\n", flush=True)
    turns = np.split(chosen, range(args.turn, len(chosen), args.turn))
    for _ in range(2):
        spent = dict.fromkeys(models, 0.0)
        for turn in turns:
            question = question_of(examples, turn)
            for text, model in models.items():
                spent[text] += seconds(model, params, question)
    print("| `Inference` | s | users/s |\n| --- | --: | --: |")
    for text, total in spent.items():
        print(f"| {text} | {total:.1f} | {len(chosen) / total:.0f} |")


if __name__ == "__main__":
    main()
