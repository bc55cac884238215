"""Times retrieval from the catalogue at FLAN-T5-Small's shape, as tables in markdown.

    python tests/benchmarks/decoding.py encoder exact lookup
    python tests/benchmarks/decoding.py beams items inputs   # how cost grows with each of them
    python tests/benchmarks/decoding.py generate             # beside Hugging Face's `generate`

Without a name all tables are made. Parameters are random: they change no cost. Every time is that
of the fastest of `--runs` runs, compilation apart; the columns of a row take turns, so that a busy
machine slows all of them. Beside it stands this machine's own limit, in brackets or a column of its
own: what the network's arithmetic takes at the rate of a large matrix product, measured first.
"""

import argparse
import functools
import os
import tempfile
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from index import sequences

from recalign.engine.network.config import recognise, search_flops
from recalign.engine.network.transformer import T5Config, Transformer
from recalign.engine.search.beam_search import _legal_logits, live_sizes
from recalign.engine.search.retrieval import decoder_step, encode, retrieve, score_all_items
from recalign.engine.search.scoring import chunk_widths
from recalign.engine.search.trie import CatalogueIndex
from recalign.engine.weights.conversion import Weights, write_weights
from recalign.engine.weights.tensor import Tensor

SMALL = {
    "vocab_size": 32128,
    "emb_dim": 512,
    "num_heads": 6,
    "num_encoder_layers": 8,
    "num_decoder_layers": 8,
    "head_dim": 64,
    "mlp_dim": 1024,
}
KINDS = {"full vocabulary": False, "renormalised": True}
# Rows and columns of the matrices whose product is this machine's limit.
PRODUCT = {"cpu": 2048}.get(jax.default_backend(), 8192)
LOOKUPS = 200  # in one compiled loop: a call takes longer than a lookup


def catalogue_of_digits(items: int) -> np.ndarray:
    """int32[items, digits + 1]: distinct random numbers of five digits, or of more if need be."""
    return sequences(items, max(5, len(str(items - 1))), branching=10)


def best_seconds(runs: int, calls: Sequence[Callable]) -> list[float]:
    """The fastest run of each call, in seconds; calls take turns, after one run each to compile."""
    best = [float("inf")] * len(calls)
    for run in range(runs + 1):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            jax.block_until_ready(call())
            if run:
                best[i] = min(best[i], time.perf_counter() - start)
    return best


def product_rate(dtype: str, runs: int) -> float:
    """The FLOP/s of a large matrix product, in the fastest of some runs."""
    # Random: on a GPU, products of ones take less power, and so less time.
    factors = jax.random.normal(jax.random.key(0), (2, PRODUCT, PRODUCT), dtype)
    (spent,) = best_seconds(5 * runs, [functools.partial(jax.jit(jnp.matmul), *factors)])
    return 2 * PRODUCT**3 / spent


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table in markdown."""
    for row in (head, ["---", *["--:"] * (len(head) - 1)], *rows):
        print(f"| {' | '.join(row)} |")
    print(flush=True)


def hugging_face(params: dict, dtype: str):
    """The same network in transformers, its weights in `dtype`; a line about it is printed."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise SystemExit(f"the table `generate` needs transformers and torch: {error}") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    print(f"{versions}, {device}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        flat = traverse_util.flatten_dict(params, sep="/")
        tensors = {name: Tensor.of(np.asarray(value)) for name, value in flat.items()}
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        write_weights(Weights("", tensors, recognise(shapes, "the tree")), folder, "hf")
        model = transformers.T5ForConditionalGeneration.from_pretrained(folder)
    return model.eval().to(device, getattr(torch, dtype))


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
        return sequences.cpu().numpy(), out.sequences_scores.float().reshape(
            -1, num_beams
        ).cpu().numpy()

    return call


def agreement(ours, theirs, catalogue: np.ndarray) -> None:
    """Prints how far two rankings are the same."""
    sequences, scores = theirs
    same = np.mean(np.all(catalogue[ours.items] == sequences, axis=-1))
    print(f"same items {same:.2%}, scores within {np.abs(ours.scores - scores).max():.1e}\n")


def numbers(text: str) -> list[int]:
    """The integers of a comma-separated list."""
    return [int(float(part)) for part in text.split(",")]


class Bench:
    """One network, its compiled functions, and a method a table."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.module = Transformer(T5Config(**SMALL, dtype=args.dtype))
        one = jnp.ones((1, 1), jnp.int32)
        init = jax.jit(functools.partial(self.module.init, enable_dropout=False))
        self.variables = {"params": init(jax.random.key(0), one, one, one)["params"]}
        self._rate = product_rate(args.dtype, args.runs)
        print(f"a product of {PRODUCT} x {PRODUCT} matrices: {self._rate / 1e9:.0f} GFLOP/s\n")
        self._encode = self._compiled(encode)
        self._search = self._compiled(retrieve, "num_beams", "renormalise")
        self._score = self._compiled(score_all_items, "chunk", "renormalise", "widths")

    def _compiled(self, function, *static):
        compiled = jax.jit(function, static_argnums=0, static_argnames=static)
        return functools.partial(compiled, self.module, self.variables)

    def _histories(self, length: int | None = None, batch: int | None = None) -> np.ndarray:
        shape = (batch or self.args.batch, length or self.args.length)
        drawn = np.random.default_rng(0).integers(2, SMALL["vocab_size"], shape)
        return drawn.astype(np.int32)

    def _searches(self, histories, index, num_beams: int | None = None) -> list[Callable]:
        """A search for each kind of score."""
        options = {"num_beams": num_beams or self.args.num_beams}
        return [
            functools.partial(self._search, histories, index, renormalise=renormalise, **options)
            for renormalise in KINDS.values()
        ]

    def _seconds(self, calls: Sequence[Callable], flops: Sequence[float]) -> list[str]:
        """The time of each call, and the limit that its arithmetic sets."""
        seconds = best_seconds(self.args.runs, calls)
        return [self._beside_limit(*one) for one in zip(seconds, flops, strict=True)]

    def _beside_limit(self, seconds: float, flops: float) -> str:
        return f"{seconds:.3f} ({flops / self._rate:.3f})"

    def _encoder_flops(self, histories: np.ndarray) -> float:
        return search_flops(self.module.config, *histories.shape, widths=(), logits=0)

    def _search_flops(
        self, histories: np.ndarray, index: CatalogueIndex, num_beams: int | None = None
    ) -> list[float]:
        """Of a search for each kind of score."""
        beams, config = num_beams or self.args.num_beams, self.module.config
        return [
            search_flops(
                config,
                *histories.shape,
                widths=[min(beams, size) for size in live_sizes(index, renormalise)],
                logits=len(index.alphabet) if renormalise else config.vocab_size,
            )
            for renormalise in KINDS.values()
        ]

    def _index(self, items: int) -> CatalogueIndex:
        return jax.device_put(CatalogueIndex.build(catalogue_of_digits(items)))

    def generate(self) -> None:
        """Both kinds of score beside `generate`, the same network and the same histories."""
        model = hugging_face(self.variables["params"], self.args.dtype)
        catalogue, histories = catalogue_of_digits(self.args.catalogue), self._histories()
        index = jax.device_put(CatalogueIndex.build(catalogue))
        searches = self._searches(histories, index)
        theirs = generate(model, histories, catalogue, self.args.num_beams)
        agreement(searches[0]()[0], theirs(scores=True), catalogue)
        seconds = best_seconds(self.args.runs, [*searches, theirs])
        flops = self._search_flops(histories, index)
        rows = [
            [
                name,
                f"{spent:.3f}",
                f"{needed / self._rate:.3f}",
                f"{needed / self._rate / spent:.0%}",
                f"{len(histories) / spent:.2f}",
                f"{seconds[-1] / spent:.1f}",
            ]
            # What `generate` has to compute is what the search over the full vocabulary has.
            for name, spent, needed in zip(
                [*KINDS, "generate"], seconds, [*flops, flops[0]], strict=True
            )
        ]
        head = ["", "s a batch", "limit", "share of it", "examples/s", "times generate"]
        table(head, rows)

    def encoder(self) -> None:
        """The encoder alone, with the keys and values of the decoder's layers."""
        histories = self._histories()
        call = functools.partial(self._encode, histories)
        (spent,) = self._seconds([call], [self._encoder_flops(histories)])
        table(["", "s a batch"], [["encoder alone", spent]])

    def exact(self) -> None:
        """The exact score of every item, for a few histories."""
        index, histories = self._index(self.args.catalogue), self._histories(batch=2)
        encoder, config = self._encoder_flops(histories), self.module.config
        chunks = -(-index.num_items // self.args.chunk)
        rows = []
        for kind, renormalise in KINDS.items():
            options = {"chunk": self.args.chunk, "renormalise": renormalise}
            options["widths"] = chunk_widths(index, **options)
            call = functools.partial(self._score, histories, index, **options)
            (spent,) = best_seconds(1, [call])
            logits = len(index.alphabet) if renormalise else config.vocab_size
            chunk = search_flops(config, *histories.shape, options["widths"], logits) - encoder
            cell = self._beside_limit(spent / 2, (encoder + chunks * chunk) / 2)
            rows.append([kind, cell, f"{2 * index.num_items / spent:.0f}"])
        table([f"{index.num_items:,} items", "s a history", "items/s"], rows)

    def lookup(self) -> None:
        """What the trie takes of a step: its lookups alone, beside the network's step alone.

        The rest of a step (log-sum-exp, top-k, moving the cache) is in neither, so that the share
        of the whole step is smaller still. Each lookup is at other nodes than the one before it.
        """
        batch, beams = self.args.batch, self.args.num_beams
        encoded = jax.block_until_ready(self._encode(self._histories()))
        index = self._index(self.args.catalogue)
        cache = self.module.empty_cache(batch, beams, index.max_length)

        @jax.jit
        def step(variables, encoded, tokens, cache):
            last = index.max_length - 1
            return decoder_step(self.module, variables, encoded)(tokens, cache, last)[0]

        tokens = jnp.full((batch, beams), 7, jnp.int32)
        call = functools.partial(step, self.variables, encoded, tokens, cache)
        logits = call()
        (network,) = best_seconds(self.args.runs, [call])
        rows = [["the network", "", f"{network * 1e3:.2f}", ""]]
        for items in (self.args.catalogue, max(self.args.items)):
            spent = lookup_seconds(self._index(items), logits, self.args.runs)
            share = f"{spent / network:.3%}"
            rows.append(["lookup in the trie", f"{items:,}", f"{spent * 1e3:.3f}", share])
        table(["a step", "items", "ms", "share of the step"], rows)

    def beams(self) -> None:
        """How cost grows with beams."""
        index, histories = self._index(self.args.catalogue), self._histories()
        rows = []
        for beams in self.args.beams:
            searches = self._searches(histories, index, beams)
            spent = self._seconds(searches, self._search_flops(histories, index, beams))
            rows.append([str(beams), *spent])
        table(["beams", *KINDS], rows)

    def items(self) -> None:
        """How cost grows with the catalogue, whose items grow by a digit as it does by ten."""
        rows = []
        for items in self.args.items:
            catalogue = catalogue_of_digits(items)
            start = time.perf_counter()
            index = CatalogueIndex.build(catalogue)
            built = time.perf_counter() - start
            histories = self._histories()
            searches = self._searches(histories, jax.device_put(index))
            spent = self._seconds(searches, self._search_flops(histories, index))
            sizes = [f"{items:,}", str(index.max_length), f"{sum(index.level_sizes):,}"]
            rows.append([*sizes, f"{built:.2f}", *spent])
        table(["items", "tokens", "prefixes", "build", *KINDS], rows)

    def inputs(self) -> None:
        """How cost grows with the length of histories."""
        index, rows = self._index(self.args.catalogue), []
        for length in self.args.inputs:
            histories = self._histories(length)
            alone = functools.partial(self._encode, histories)
            calls = [alone, *self._searches(histories, index)]
            flops = [self._encoder_flops(histories), *self._search_flops(histories, index)]
            rows.append([str(length), *self._seconds(calls, flops)])
        table(["input tokens", "encoder alone", *KINDS], rows)


def lookup_seconds(index: CatalogueIndex, logits: jax.Array, runs: int) -> float:
    """How long it takes to find what may follow each of B × K prefixes, and its logits.

    Args:
        index: on the device.
        logits: float32[B, K, V].
        runs: the fastest of so many counts.
    """
    frame = max(index.branching)
    drawn = np.random.default_rng(0).integers(len(index.code), size=(LOOKUPS, *logits.shape[:2]))

    @jax.jit
    def look_up_all(index, logits, nodes):
        def look_up(i, total):
            # Each waits for the one before: `total` is never infinite, but XLA does not know.
            here = jnp.where(jnp.isinf(total), 0, nodes[i])
            children, child_logits, end_logits = _legal_logits(index, logits, here, frame)
            below = index.end_rank[children] - index.first_rank[children]
            found = [jnp.exp(child_logits), jnp.exp(end_logits), below * 1e-9, children * 1e-9]
            return total * 0.5 + sum(jnp.mean(x) for x in found)

        return jax.lax.fori_loop(0, len(nodes), look_up, 0.0)

    call = functools.partial(look_up_all, index, logits, jnp.asarray(drawn, jnp.int32))
    return best_seconds(runs, [call])[0] / LOOKUPS


TABLES = ("encoder", "exact", "lookup", "beams", "items", "inputs", "generate")


def main():
    """Prints the configuration and the tables; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=256, help="of histories, in tokens")
    parser.add_argument("--num_beams", type=int, default=20)
    parser.add_argument("--catalogue", type=int, default=12101, help="items")
    parser.add_argument("--beams", type=numbers, default=[5, 10, 20, 40, 100])
    parser.add_argument("--items", type=numbers, default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--inputs", type=numbers, default=[64, 128, 256, 512])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--chunk", type=int, default=500, help="items at a time in exact scoring")
    args = parser.parse_args()
    if unknown := set(args.tables) - set(TABLES):
        parser.error(f"no table {', '.join(sorted(unknown))}: there are {', '.join(TABLES)}")
    device = jax.devices()[0]
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"jax {jax.__version__}, {device.platform} ({device.device_kind}), ", end="")
    print(f"{os.cpu_count()} CPUs, load {load}")
    print(f"{SMALL}, {args.dtype}; batch {args.batch}, {args.length} tokens, ", end="")
    print(f"{args.num_beams} beams, {args.catalogue:,} items where nothing else is said\n")
    bench = Bench(args)
    for name in args.tables or TABLES:
        getattr(bench, name)()


if __name__ == "__main__":
    main()
