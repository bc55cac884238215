"""The safetensors file format, read and written one tensor at a time.

A file is the length of its header (8 bytes, little-endian), the header (JSON: each tensor's dtype,
shape and byte range) and the bytes (github.com/huggingface/safetensors). The library of that name
writes only tensors that are all in memory, reads no bfloat16 into numpy and no buckets.
"""

import json
from collections.abc import Mapping

import numpy as np
from etils import epath

from recalign.engine.weights.tensor import Flat, Tensor
from recalign.errors import UserError

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
}
NAMES = {name: code for code, name in DTYPES.items()}


def read(path: epath.Path) -> Flat:
    """The tensors of one file, by name.

    Raises:
        UserError: the file is cut short or is no safetensors file.
    """
    size = path.stat().length
    with path.open("rb") as file:
        first = file.read(8)
        if first == b"version ":
            raise UserError(f"{path} is a pointer of Git LFS, not the file: run git lfs pull")
        start = 8 + int.from_bytes(first, "little")
        if not 8 < start <= size:
            raise UserError(f"{path} is not a safetensors file: its header's length is wrong")
        try:
            header = json.loads(file.read(start - 8))
        except ValueError as error:
            raise UserError(f"{path} is not a safetensors file: {error}") from error
    header.pop("__metadata__", None)
    end = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size != end:
        raise UserError(f"{path} has {size:,} bytes and its header asks for {end:,}")
    return {name: _tensor(path, start, name, entry) for name, entry in header.items()}


def _tensor(path: epath.Path, start: int, name: str, entry: Mapping) -> Tensor:
    if entry["dtype"] not in DTYPES:
        raise UserError(
            f"{path}: {name} has the dtype {entry['dtype']}, which is not supported: save the "
            f"model in one of {', '.join(DTYPES)}"
        )
    dtype = np.dtype(DTYPES[entry["dtype"]])
    shape = tuple(entry["shape"])
    first, last = entry["data_offsets"]

    def data() -> np.ndarray:
        with path.open("rb") as file:
            file.seek(start + first)
            return np.frombuffer(file.read(last - first), dtype).reshape(shape)

    return Tensor(shape, dtype, data)


def write(path: epath.Path, tensors: Flat) -> None:
    """Writes one file, reading and writing one tensor after the other."""
    header: dict = {"__metadata__": {"format": "pt"}}  # without it transformers refuses the file
    position = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": NAMES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.bytes],
        }
        position += tensor.bytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for tensor in tensors.values():
            # Byte by byte: the buffer protocol does not know bfloat16.
            file.write(np.ascontiguousarray(tensor.read()).reshape(-1).view(np.uint8).data)
