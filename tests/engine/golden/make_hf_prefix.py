"""Writes hf_prefix.npz. Needs transformers (4.57) and torch beside recalign.

    python tests/engine/golden/make_hf_prefix.py

It holds the items and scores that Hugging Face's `generate` gives when each answer begins with
tokens that are given (`decoder_input_ids`, after the start token), for the model of `t5x_case.py`.
"""

import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from etils import epath
from flax import traverse_util

from recalign.engine.network.transformer import T5Config, Transformer
from recalign.engine.weights import hf
from recalign.engine.weights.tensor import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
import t5x_case as case

GIVEN = [[], [17], [23, 91, 5, 40], [8, 8]]  # what each answer begins with


def catalogue() -> list[tuple[int, ...]]:
    """60 items of one to four tokens; some are prefixes of others."""
    stream = np.random.RandomState(7)
    drawn = {tuple(stream.randint(2, 9, stream.randint(1, 5)).tolist()) for _ in range(90)}
    return sorted(drawn)[:60]


def model(folder: str) -> transformers.T5ForConditionalGeneration:
    """The case's parameters in Hugging Face's class."""
    ones = jnp.ones((1, 4), jnp.int32)
    config = T5Config(**case.CONFIG)
    module = Transformer(config)
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), ones, ones, ones, enable_dropout=False)["params"]
    )
    shapes = {k: v.shape for k, v in traverse_util.flatten_dict(shapes, sep="/").items()}
    params = case.parameters(shapes)
    tensors = {name: Tensor.of(value) for name, value in params.items()}
    hf.write(epath.Path(folder), tensors, vars(config))
    return transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()


def main() -> None:
    """Searches with 5 beams and with as many as items, example by example."""
    items = catalogue()
    sequences = [(*item, 1) for item in items]
    place = {sequence: i for i, sequence in enumerate(sequences)}
    inputs = case.batch(0)["encoder_input_tokens"]
    made = {"items": np.array([(*s, 0, 0, 0, 0)[:5] for s in sequences], np.int32)}
    width = max(map(len, GIVEN))
    made["given"] = np.array([[*g, *[0] * (width - len(g))] for g in GIVEN], np.int32)
    with tempfile.TemporaryDirectory() as folder:
        network = model(folder)
    for beams in (5, len(items)):
        found, scores = [], []
        for row, given in zip(inputs, GIVEN, strict=True):
            begun = 1 + len(given)

            def allowed(_, written, begun=begun):
                prefix = tuple(written.tolist()[begun:])
                below = {s[len(prefix) :][:1] for s in sequences if s[: len(prefix)] == prefix}
                return sorted(token for follow in below for token in follow) or [0]

            tokens = torch.tensor(row[None][:, row > 0], dtype=torch.long)
            out = network.generate(
                input_ids=tokens,
                decoder_input_ids=torch.tensor([[0, *given]]),
                num_beams=beams,
                num_return_sequences=beams,
                max_new_tokens=5,
                length_penalty=0.0,
                early_stopping=False,
                do_sample=False,
                prefix_allowed_tokens_fn=allowed,
                output_scores=True,
                return_dict_in_generate=True,
            )
            rows = [r[begun:] for r in out.sequences.tolist()]
            found.append([place[tuple(r[: r.index(1) + 1])] for r in rows])
            scores.append(out.sequences_scores.numpy())
        made[f"beam{beams}/items"] = np.array(found, np.int32)
        made[f"beam{beams}/scores"] = np.array(scores, np.float32)
    np.savez_compressed(Path(__file__).with_name("hf_prefix.npz"), **made)


if __name__ == "__main__":
    main()
