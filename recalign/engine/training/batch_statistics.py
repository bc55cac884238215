"""What a batch is made of: tokens, examples, and how many of them were cut or say nothing."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from recalign.engine.search.trie import EOS

SIDES = {"inputs": ("encoder", "input"), "targets": ("decoder", "target")}


def count(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Counts over a batch, float32[] each.

    An example begins and ends with its segment, in a batch that is not packed with its row. It was
    cut to the feature's length if its last token is not EOS, and is empty if EOS is its only one.
    Targets may do without EOS: they were cut if they fill a row besides.

    Args:
      batch: SeqIO's encoder-decoder features, int[B, length] each, packed or not.

    Returns:
      `tokens`, of both sides, without padding; `examples`; `truncated_inputs`, `truncated_targets`,
      `empty_inputs` and `empty_targets`.
    """
    counts = {"tokens": jnp.zeros((), jnp.int32)}
    for side, (stack, kind) in SIDES.items():
        tokens = batch[f"{stack}_{kind}_tokens"]
        segments = batch.get(f"{stack}_segment_ids", (tokens > 0).astype(jnp.int32))
        edge = ((0, 0), (1, 1))
        padded = jnp.pad(segments, edge)
        begins = (segments > 0) & (segments != padded[:, :-2])
        ends = (segments > 0) & (segments != padded[:, 2:])
        counts["tokens"] += jnp.sum(tokens > 0)
        counts["examples"] = jnp.sum(ends)
        cut = ends & (tokens != EOS)
        if side == "targets":
            cut &= segments[:, :1] == segments[:, -1:]
        counts[f"truncated_{side}"] = jnp.sum(cut)
        counts[f"empty_{side}"] = jnp.sum(begins & ends & (tokens == EOS))
    return {name: value.astype(jnp.float32) for name, value in counts.items()}


def row_text(
    batch: Mapping[str, np.ndarray], row: int, decode: Callable[[Sequence[int]], str]
) -> str:
    """A row of a batch as text, the examples packed in it one after another.

    The batch is one of `count`, and `decode` gives the text of token ids.
    """
    lines, parts = [f"row {row}"], {}
    for side, (stack, kind) in SIDES.items():
        tokens = batch[f"{stack}_{kind}_tokens"][row]
        segments = batch.get(f"{stack}_segment_ids")
        parts[side] = tokens, (tokens > 0).astype(int) if segments is None else segments[row]
    for segment in range(1, max(segments.max() for _, segments in parts.values()) + 1):
        for side, (tokens, segments) in parts.items():
            lines.append(f"  {side}: {decode(tokens[segments == segment].tolist())}")
    return "\n".join(lines) + "\n"
