"""What arrays there are, as a table to read."""

import math
from typing import Any

import jax


def format_arrays(tree: Any) -> str:
    """A line an array: its path, dtype, shape and size; below them the sum of the sizes."""
    rows = [
        (
            jax.tree_util.keystr(path, simple=True, separator="/"),
            f"{leaf.dtype}[{', '.join(map(str, leaf.shape))}]",
            f"{math.prod(leaf.shape):,}",
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
    rows.append(("total", "", f"{total:,}"))
    name, kind, size = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"  {r[0]:<{name}}  {r[1]:<{kind}}  {r[2]:>{size}}" for r in rows)
