"""Orbax checkpoints: parameters alone, or those within a train state of ours."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from recalign.engine.weights.manifest import COMMITTED
from recalign.engine.weights.tensor import Flat, Tensor
from recalign.errors import UserError
from recalign.files import in_bucket

METADATA = "_METADATA"
STEP = re.compile(r"(?:(?:checkpoint|ckpt|step)_)?(\d+)")  # a folder among several checkpoints
# Where the parameters stand: a checkpoint may hold a train state, a module's variables, or one in
# the other. Other branches, such as an optimiser's moments, may have the parameters' names too.
ROOTS = ("params", "target", "variables", "model", "state", "train_state", "optimizer")


def is_checkpoint(path: epath.Path) -> bool:
    """Whether the folder is an Orbax checkpoint, or a step of a run."""
    return bool(_items(path))


def _items(path: epath.Path) -> list[epath.Path]:
    """The checkpoint itself, or the items that a manager wrote beside each other in a step."""
    if in_bucket(path) and not (path / COMMITTED).exists():
        return []  # it is being written, or was never finished
    if (path / METADATA).exists():
        return [path]
    if not path.is_dir():
        return []
    items = [
        child
        for child in path.iterdir()
        if not STEP.fullmatch(child.name) and (child / METADATA).exists()
    ]
    return sorted(items, key=lambda item: (item.name not in ROOTS, item.name))


def read(path: epath.Path) -> tuple[Flat, dict]:
    """The parameters by name; nothing is told beyond their shapes.

    Raises:
        UserError: there are no parameters in it.
    """
    for item in _items(path):
        tree = ocp.PyTreeCheckpointHandler().metadata(item).tree
        if (root := _find_root(tree)) is not None:
            for name in root:
                tree = tree[name]
            leaves = traverse_util.flatten_dict(tree, sep="/")
            prefix = "".join(f"{name}/" for name in root)
            return {name: _tensor(item, prefix + name, leaf) for name, leaf in leaves.items()}, {}
    raise UserError(
        f"{path} holds no T5 parameters: its first entry is "
        f"{min(traverse_util.flatten_dict(tree, sep='/'), default=None)!r}"
    )


def _find_root(tree: Any) -> tuple[str, ...] | None:
    """The path to the parameters of a T5 within a tree, or None."""
    if not isinstance(tree, Mapping):
        return None
    if "token_embedder" in tree:
        return ()
    for name in ROOTS:
        if (rest := _find_root(tree.get(name))) is not None:
            return (name, *rest)
    return None


def _tensor(path: epath.Path, name: str, metadata) -> Tensor:
    def data() -> np.ndarray:
        def alone(leaf):
            return traverse_util.unflatten_dict({name: leaf}, sep="/")

        arguments = ocp.args.PyTreeRestore(
            item=alone(0),
            restore_args=alone(ocp.RestoreArgs(restore_type=np.ndarray)),
            partial_restore=True,
        )
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            restored = checkpointer.restore(path, args=arguments)
        return traverse_util.flatten_dict(restored, sep="/")[name]

    return Tensor(tuple(metadata.shape), np.dtype(metadata.dtype), data)


class _Streaming(ocp.type_handlers.NumpyHandler):
    """Writes `Tensor`s as Orbax writes numpy arrays, but one after the other."""

    async def serialize(self, values, infos, args=None):
        for value, info, arg in zip(values, infos, args, strict=True):
            for written in await super().serialize([value.read()], [info], [arg]):
                written.result()
        return []


def check_no_pattern(path: epath.Path) -> None:
    r"""Raises a UserError for a folder whose name Orbax takes for a pattern: run[1], a*, a\b.

    Of checkpoints that it writes there it finds no array again.
    """
    if found := re.search(r"\[.*\]|[*?\\]", str(path)):
        raise UserError(
            f"{path}: no checkpoint can be written here, since Orbax takes {found[0]} for a "
            "pattern: choose a path without [ ] * ? and backslashes"
        )


def write(path: epath.Path, tensors: Flat, config: dict) -> None:
    """Writes {'params': …}; Orbax moves the folder into place once it is complete.

    Args:
        path: the folder, which is empty or absent.
        tensors: by our names.
        config: unused, the format has no place for it.

    Raises:
        UserError: Orbax cannot write to a path of this name.
    """
    del config
    check_no_pattern(path)
    tree = {"params": traverse_util.unflatten_dict(tensors, sep="/")}
    registry = ocp.type_handlers.create_type_handler_registry((Tensor, _Streaming()))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree), force=True)
