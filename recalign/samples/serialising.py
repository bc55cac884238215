"""Records as protobuf writes them, many at once: a call of Python a value takes ten times as long."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

_BITS = 7  # of a number that a byte of protobuf holds; the eighth tells that more follow


class Ragged(NamedTuple):
    """A feature of r records: record i has `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
      values: int32 or int64, from 0 to 2^32 - 1; or float32.
      offsets: integer[r + 1], from 0 to the number of values.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def one_each(cls, values: np.ndarray) -> "Ragged":
        """A feature of which each record has one value."""
        return cls(values, np.arange(len(values) + 1))


def serialise(features: Mapping[str, Ragged]) -> Iterator[bytes]:
    """A `tf.train.Example` of each record, as `SerializeToString(deterministic=True)` writes it."""
    parts, sizes = [], 0
    for name in sorted(features):
        values, offsets = features[name]
        floats = values.dtype == np.float32
        body, ends = _write_floats(values) if floats else _write_numbers(values)
        bounds = ends[offsets]
        head = functools.partial(_write_head, name, floats)
        heads, head_sizes = _take(head, np.diff(bounds))
        parts += [heads, _cut(body, bounds)]
        sizes += head_sizes + np.diff(bounds)
    # An Example has one field, its features.
    outer = _cut(*_write_numbers(sizes))
    whole = pc.binary_join_element_wise(pa.scalar(b"\n"), outer, *parts, b"")
    data = whole.buffers()[2].to_pybytes()
    bounds = np.frombuffer(whole.buffers()[1], np.int32)[: len(whole) + 1].tolist()
    return (data[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False))


def _write_numbers(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Protobuf's bytes of some numbers, and where each ends, from 0: uint8[b], int64[n + 1]."""
    width = max(-(-int(values.max(initial=0)).bit_length() // _BITS), 1)
    shifted = values.astype(np.uint32)[:, None] >> np.arange(0, width * _BITS, _BITS, np.uint32)
    there = shifted > 0
    there[:, 0] = True
    written = (shifted & 0x7F).astype(np.uint8)
    written[:, :-1] |= there[:, 1:].view(np.uint8) << _BITS
    return written[there], _add_up(np.count_nonzero(there, axis=1))


def _write_floats(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `_write_numbers`; float32."""
    return values.astype("<f4").view(np.uint8), 4 * np.arange(len(values) + 1)


def _add_up(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


@functools.lru_cache(maxsize=1 << 12)
def _write_head(name: str, floats: bool, size: int) -> bytes:
    """What protobuf writes of a feature before its values, of so many bytes in all."""
    if floats:
        values = {"float_list": tf.train.FloatList(value=[0.0] * (size // 4))}
    else:
        values = {"int64_list": tf.train.Int64List(value=[0] * size)}
    features = tf.train.Features(feature={name: tf.train.Feature(**values)})
    return features.SerializeToString().removesuffix(bytes(size))


def _take(make: Callable[[int], bytes], sizes: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """`make` of each size, and how many bytes that has."""
    known = np.flatnonzero(np.bincount(sizes))
    made = pa.array([make(size) for size in known.tolist()], pa.binary())
    which = np.searchsorted(known, sizes)
    return made.take(pa.array(which)), pc.binary_length(made).to_numpy()[which]


def _cut(data: np.ndarray, bounds: np.ndarray) -> pa.Array:
    """Bytes, cut into an element from each of the bounds to the next."""
    buffers = [None, pa.py_buffer(bounds.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(bounds) - 1, buffers)
