"""Orbax checkpoints: parameters alone, or those within a train state of ours."""

import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from recalign.engine.weights.tensor import Flat, Tensor
from recalign.errors import UserError

METADATA = "_METADATA"
ITEMS = ("", "state", "default")  # the checkpoint itself, a step of a run, Orbax's own name
ROOTS = ("params", "target")


def found(path: epath.Path) -> bool:
    """Whether the folder is an Orbax checkpoint, or a step of a run."""
    return any((path / item / METADATA).exists() for item in ITEMS)


def read(path: epath.Path) -> tuple[Flat, dict]:
    """The parameters by name; nothing is told beyond their shapes.

    Raises:
        UserError: there are no parameters in it.
    """
    path = next(path / item for item in ITEMS if (path / item / METADATA).exists())
    tree = ocp.PyTreeCheckpointHandler().metadata(path).tree
    root = next((root for root in ROOTS if root in tree), None)
    leaves = traverse_util.flatten_dict(tree[root] if root else tree, sep="/")
    if "token_embedder/embedding" not in leaves:
        raise UserError(f"{path} holds no T5 parameters: its first entry is {min(leaves)!r}")
    prefix = f"{root}/" if root else ""
    return {name: _tensor(path, prefix + name, leaf) for name, leaf in leaves.items()}, {}


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


def write(path: epath.Path, tensors: Flat, config: dict) -> None:
    """Writes {'params': …}; Orbax moves the folder into place once it is complete.

    Args:
        path: the folder, which is empty or absent.
        tensors: by our names.
        config: unused, the format has no place for it.
    """
    del config
    tree = {"params": traverse_util.unflatten_dict(tensors, sep="/")}
    registry = ocp.type_handlers.create_type_handler_registry((Tensor, _Streaming()))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree), force=True)
