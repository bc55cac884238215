"""T5X's own checkpoint format, version 3.

A msgpack file ``checkpoint`` holds the train state as a tree. Parameters, and whatever else T5X
lays out over devices, stand in it as a TensorStore specification of a zarr array in a folder
beside it ('target.encoder.layers_0.….kernel'); small arrays stand in the file itself.
"""

import numpy as np
import tensorstore as ts
from etils import epath
from flax import serialization, traverse_util

from recalign.engine.weights.tensor import Flat, Tensor
from recalign.errors import UserError
from recalign.files import in_bucket

FILE = "checkpoint"
CHUNK_BYTES = 64 * 2**20
FACTORED_FROM = 128  # the least size of both axes from which T5X's Adafactor factors


def is_checkpoint(path: epath.Path) -> bool:
    """Whether the folder is one of T5X's."""
    return (path / FILE).exists()


def read(path: epath.Path) -> tuple[Flat, dict]:
    """The parameters by name; nothing is told beyond their shapes.

    Raises:
        UserError: the file is damaged or an array is missing.
    """
    try:
        state = serialization.msgpack_restore((path / FILE).read_bytes())
        target = state["optimizer"]["target"]
    except Exception as error:
        raise UserError(f"{path / FILE} is not a T5X checkpoint: {error!r}") from error
    leaves = traverse_util.flatten_dict(target, sep="/", is_leaf=lambda _, v: "driver" in v)
    # Where an array stood when it was written (a bucket, another folder) is of no use: it is always
    # beside the file, under its parameter's name. All are opened at once, for a bucket's sake.
    opened = {
        name: ts.open(_spec(path / _folder(name)), open=True, read=True)
        for name, leaf in leaves.items()
        if isinstance(leaf, dict)
    }
    return {name: _tensor(path, name, opened.get(name, leaf)) for name, leaf in leaves.items()}, {}


def _folder(name: str) -> str:
    return f"target.{name.replace('/', '.')}"


def _tensor(path: epath.Path, name: str, leaf) -> Tensor:
    if not isinstance(leaf, ts.Future):
        return Tensor.of(np.asarray(leaf))
    try:
        array = leaf.result()
    except ValueError as error:
        raise UserError(f"{path} has no array for {name}: {error}") from error
    dtype = np.dtype(array.dtype.numpy_dtype)
    return Tensor(tuple(array.shape), dtype, lambda: array.read().result())


def _spec(folder: epath.Path) -> dict:
    """A zarr array in a folder, local or in a bucket (gs://, s3://)."""
    location = str(folder)
    kvstore = location + "/" if in_bucket(folder) else {"driver": "file", "path": location + "/"}
    return {"driver": "zarr", "kvstore": kvstore}


def write(path: epath.Path, tensors: Flat, config: dict) -> None:
    """Writes a checkpoint that T5X restores and trains on: step 0, Adafactor's state zero.

    Args:
        path: the folder, which exists; the file that makes it a checkpoint is written last.
        tensors: by our names, which are T5X's.
        config: unused, the format has no place for it.
    """
    del config
    target, states = {}, {}
    for name, tensor in tensors.items():
        metadata = {
            "chunks": _chunks(tensor),
            "compressor": {"id": "gzip", "level": 1},
            "shape": list(tensor.shape),
        }
        spec = {"dtype": tensor.dtype.name, "metadata": metadata}
        array = ts.open(_spec(path / _folder(name)) | spec, create=True).result()
        array.write(tensor.read()).result()
        kvstore = {"driver": "file", "path": _folder(name) + "/"}
        target[name] = {"driver": "zarr", "kvstore": kvstore, **spec}
        states[name] = _zero_state(tensor.shape)
    state = {"step": np.int32(0), "param_states": _nest(states)}
    content = {"version": 3, "optimizer": {"target": _nest(target), "state": state}}
    (path / FILE).write_bytes(serialization.msgpack_serialize(content))


def _nest(flat: dict) -> dict:
    return traverse_util.unflatten_dict(flat, sep="/")


def _chunks(tensor: Tensor) -> list[int]:
    """The whole array, or as many of its rows as divide it and stay below `CHUNK_BYTES`."""
    rows, *rest = tensor.shape
    pieces = next(
        n for n in range(1, rows + 1) if rows % n == 0 and tensor.bytes <= n * CHUNK_BYTES
    )
    return [rows // pieces, *rest]


def _zero_state(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Adafactor's accumulators before the first step; (1,) is T5X's mark for one not kept."""
    state = {name: np.zeros(1, np.float32) for name in ("m", "v", "v_row", "v_col")}
    if len(shape) == 2 and min(shape) >= FACTORED_FROM:
        smaller, larger = np.argsort(shape)
        state["v_row"] = np.zeros(shape[smaller], np.float32)
        state["v_col"] = np.zeros(shape[larger], np.float32)
    else:
        state["v"] = np.zeros(shape, np.float32)
    return state
