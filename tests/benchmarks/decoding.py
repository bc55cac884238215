"""Times retrieval from the catalogue, beside Hugging Face's `generate` where it is installed.

    python tests/benchmarks/decoding.py                  # FLAN-T5-Small's shape, 12,101 items
    python tests/benchmarks/decoding.py --no-generate --beams 5,20,100 --inputs 64,256,512
    python tests/benchmarks/decoding.py --no-generate --items 10000,1000000,10000000

Parameters are random: they change no cost. Every time is that of the fastest of `--runs` runs,
compilation apart; rows of different libraries alternate, so that a busy machine slows both.
"""

import argparse
import functools
import os
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from recalign.engine.catalogue import EOS, CatalogueIndex
from recalign.engine.convert import save_params
from recalign.engine.network import T5Config, Transformer
from recalign.engine.retrieval import encode, retrieve, score_all_items
from recalign.engine.scoring import chunk_widths

SMALL = {
    "vocab_size": 32128,
    "emb_dim": 512,
    "num_heads": 6,
    "num_encoder_layers": 8,
    "num_decoder_layers": 8,
    "head_dim": 64,
    "mlp_dim": 1024,
}
FIRST_DIGIT = 100  # which ten tokens are digits changes no cost


def catalogue_of_digits(items: int, seed: int = 0) -> np.ndarray:
    """int32[items, digits + 1]: distinct random numbers of five digits, or of more if need be."""
    digits = max(5, len(str(items)))
    rng = np.random.default_rng(seed)
    numbers = rng.choice(10**digits, items, replace=False)
    places = 10 ** np.arange(digits - 1, -1, -1)
    tokens = FIRST_DIGIT + numbers[:, None] // places % 10
    return np.pad(tokens, ((0, 0), (0, 1)), constant_values=EOS).astype(np.int32)


def best_seconds(runs: int, *calls) -> list[float]:
    """The fastest run of each call, in seconds; calls take turns, after one run each to compile."""
    best = [float("inf")] * len(calls)
    for run in range(runs + 1):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            jax.block_until_ready(call())
            if run:
                best[i] = min(best[i], time.perf_counter() - start)
    return best


def hugging_face(params: dict):
    """The same network in transformers, or None where that is not installed."""
    try:
        import torch
        import transformers
    except ImportError:
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    print(f"{versions}, {device}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        save_params(params, folder, "hf")
        model = transformers.T5ForConditionalGeneration.from_pretrained(folder)
    return model.eval().to(device)


def generate(model, histories: np.ndarray, catalogue: np.ndarray, num_beams: int):
    """A call that searches by `generate(prefix_allowed_tokens_fn=…)`, as its users write it.

    It gives sequences int[B, K, L] and, if asked for, scores float[B, K].
    """
    import torch

    allowed: dict[tuple[int, ...], set[int]] = {}
    for sequence in catalogue.tolist():
        for n in range(len(sequence)):
            allowed.setdefault(tuple(sequence[:n]), set()).add(sequence[n])
    allowed = {prefix: sorted(tokens) for prefix, tokens in allowed.items()}
    inputs = torch.tensor(histories, dtype=torch.long, device=model.device)

    def call(scores: bool = False):
        with torch.inference_mode():
            out = model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                num_beams=num_beams,
                num_return_sequences=num_beams,
                max_new_tokens=catalogue.shape[1],
                length_penalty=0.0,
                return_dict_in_generate=True,
                output_scores=scores,
                prefix_allowed_tokens_fn=lambda _, ids: allowed.get(tuple(ids.tolist()[1:]), [0]),
            )
        sequences = out.sequences[:, 1:].reshape(len(histories), num_beams, -1)
        if not scores:
            return sequences.cpu().numpy()
        return sequences.cpu().numpy(), out.sequences_scores.reshape(-1, num_beams).cpu().numpy()

    return call


def numbers(text: str) -> list[int]:
    """The integers of a comma-separated list."""
    return [int(part) for part in text.split(",")]


def agreement(ours, theirs, catalogue: np.ndarray):
    """Prints how far two rankings are the same."""
    sequences, scores = theirs
    same = np.mean(np.all(catalogue[ours.items] == sequences, axis=-1))
    print(f"  same items {same:.2%}, scores within {np.abs(ours.scores - scores).max():.1e}")


class Bench:
    """One network and its compiled functions, timed and printed line by line."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.module = Transformer(T5Config(**SMALL, dtype=args.dtype))
        one = jnp.ones((1, 1), jnp.int32)
        init = jax.jit(functools.partial(self.module.init, enable_dropout=False))
        self.variables = {"params": init(jax.random.key(0), one, one, one)["params"]}
        self.torch_model = hugging_face(self.variables["params"]) if args.generate else None
        self.encode = self._compiled(encode)
        self.search = self._compiled(retrieve, "num_beams", "renormalise")
        self.score = self._compiled(score_all_items, "chunk", "renormalise", "widths")

    def _compiled(self, function, *static):
        compiled = jax.jit(function, static_argnums=0, static_argnames=static)
        return functools.partial(compiled, self.module, self.variables)

    def beam_search(self, histories, catalogue, index, num_beams):
        """A line for each kind of score, and one for `generate`."""
        search = functools.partial(self.search, histories, index, num_beams=num_beams)
        calls = {
            "full vocabulary": search,
            "renormalised": functools.partial(search, renormalise=True),
        }
        if self.torch_model:
            calls["generate"] = generate(self.torch_model, histories, catalogue, num_beams)
            agreement(search(), calls["generate"](scores=True), catalogue)
        seconds = dict(zip(calls, best_seconds(self.args.runs, *calls.values()), strict=True))
        for kind, spent in seconds.items():
            ratio = f", {seconds['generate'] / spent:.2f} x generate" if "generate" in calls else ""
            rate = len(histories) / spent
            print(f"  {num_beams:3} beams, {kind:15}: {spent:7.3f} s, {rate:8.2f} /s{ratio}")

    def exact_scores(self, histories, index):
        """A line for each kind of score."""
        for kind, renormalise in ("full vocabulary", False), ("renormalised", True):
            options = {"chunk": self.args.chunk, "renormalise": renormalise}
            options["widths"] = chunk_widths(index, **options)
            call = functools.partial(self.score, histories, index, **options)
            (spent,) = best_seconds(1, call)
            rate = len(histories) / spent
            print(f"  exact scores, {kind:15}: {spent:7.3f} s, {rate:8.2f} /s")

    def run(self):
        """All lines."""
        args = self.args
        for items in args.items:
            catalogue = catalogue_of_digits(items)
            start = time.perf_counter()
            index = CatalogueIndex.build(catalogue)
            spent = time.perf_counter() - start
            print(f"{items} items, {sum(index.level_sizes)} prefixes: built in {spent:.2f} s")
            index = jax.device_put(index)
            for length in args.inputs:
                shape = (args.batch, length)
                drawn = np.random.default_rng(0).integers(2, SMALL["vocab_size"], shape)
                histories = drawn.astype(np.int32)
                (spent,) = best_seconds(args.runs, functools.partial(self.encode, histories))
                print(f"batch {args.batch}, input {length}: {spent:.3f} s for the encoder alone")
                for num_beams in args.beams:
                    self.beam_search(histories, catalogue, index, num_beams)
                if args.exact:
                    self.exact_scores(histories[: args.exact], index)


def main():
    """Prints the configuration and times; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--beams", type=numbers, default=[20])
    parser.add_argument("--inputs", type=numbers, default=[256], help="lengths of histories")
    parser.add_argument("--items", type=numbers, default=[12101])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-generate", dest="generate", action="store_false")
    parser.add_argument("--exact", type=int, default=0, help="how many histories to score exactly")
    parser.add_argument("--chunk", type=int, default=500, help="items at a time in exact scoring")
    args = parser.parse_args()
    device = jax.devices()[0]
    print(f"jax {jax.__version__}, {device.platform} ({device.device_kind}), {os.cpu_count()} CPUs")
    print(f"{SMALL}, {args.dtype}")
    Bench(args).run()


if __name__ == "__main__":
    main()
