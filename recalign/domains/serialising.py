"""Records as TFRecord files have them, many at once: one by one takes ten times as long.

TensorFlow, which has a writer of its own, takes longer to import than many a domain to write.
"""

import functools
import itertools
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BITS = 7  # of a number that a byte of protobuf holds; the eighth tells that more follow
# Added to a checksum that was rotated, as TFRecord files have it
# (https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details).
_MASK = 0xA282EAD8


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


def serialise(features: Mapping[str, Ragged]) -> pa.BinaryArray:
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
    return pc.binary_join_element_wise(pa.scalar(b"\n"), outer, *parts, b"")


def frame(records: pa.BinaryArray) -> memoryview:
    """What a TFRecord file holds of some records, after one another: uint8[b].

    Of each its length, that one's checksum, the record and its checksum.
    """
    bounds = _bounds(records)
    data = records.buffers()[2].to_pybytes()
    ends = itertools.pairwise(bounds.tolist())
    sums = [google_crc32c.value(data[start:stop]) for start, stop in ends]
    ends = _cut(_mask(np.array(sums, np.uint32)).view(np.uint8), 4 * np.arange(len(bounds)))
    framed = pc.binary_join_element_wise(
        _take(_write_length, np.diff(bounds))[0], records, ends, b""
    )
    return memoryview(framed.buffers()[2])[: _bounds(framed)[-1]]


def _bounds(records: pa.BinaryArray) -> np.ndarray:
    """Where in their data records begin, and the last ends: int32[r + 1]."""
    whole = np.frombuffer(records.buffers()[1], np.int32)
    return whole[records.offset : records.offset + len(records) + 1]


def _write_length(size: int) -> bytes:
    """What stands before a record of so many bytes in a TFRecord file."""
    length = struct.pack("<Q", size)
    return length + _mask(np.array([google_crc32c.value(length)], np.uint32)).tobytes()


def _mask(sums: np.ndarray) -> np.ndarray:
    """Checksums (CRC-32C) as TFRecord files have them, uint32[n]."""
    return ((sums >> 15 | sums << 17) + np.uint32(_MASK)).astype("<u4")


def _write_numbers(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Protobuf's bytes of some numbers, and where each ends, from 0: uint8[b], int64[n + 1]."""
    width = max(-(-int(values.max(initial=0)).bit_length() // _BITS), 1)
    written = np.empty((len(values), width), np.uint8)
    there = np.empty((len(values), width), bool)
    # Byte by byte of all numbers: along an axis as short as a number NumPy is slow.
    rest, more = values.astype(np.uint32), np.ones(len(values), bool)
    sizes = np.zeros(len(values), np.int64)
    for byte in range(width):
        there[:, byte] = more
        sizes += more
        more = rest > 0x7F
        written[:, byte] = rest & 0x7F | more.view(np.uint8) << _BITS
        rest >>= _BITS
    return written[there], _add_up(sizes)


def _write_floats(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `_write_numbers`; float32."""
    return values.astype("<f4").view(np.uint8), 4 * np.arange(len(values) + 1)


def _add_up(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


@functools.lru_cache(maxsize=1 << 12)
def _write_head(name: str, floats: bool, size: int) -> bytes:
    """What protobuf writes of a feature before its values, of so many bytes in all.

    A feature is an entry of a map, whose key is its name; its value is a list, the first field of
    an Int64List or FloatList, which is the third or second field of a Feature.
    """
    values = bytes(size)
    listed = _write_field(2 if floats else 3, _write_field(1, values) if size else b"")
    entry = _write_field(1, name.encode()) + _write_field(2, listed)
    return _write_field(1, entry).removesuffix(values)


def _write_field(number: int, content: bytes) -> bytes:
    """A field of protobuf: its number and that it has a length, its length, what it holds."""
    length, _ = _write_numbers(np.array([len(content)]))
    return bytes([number << 3 | 2]) + length.tobytes() + content


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
