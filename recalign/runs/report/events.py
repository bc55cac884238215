"""What a training wrote for TensorBoard, read without TensorFlow."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

_LENGTH, _CHECKSUM = 8, 4  # bytes before a record; a checksum stands behind it too

Scalars = dict[str, dict[int, float]]
"""By tag, then by step."""


def read_scalars(folder: Path) -> Scalars:
    """Every scalar in the event files of a folder.

    A call that went on from an earlier step takes the place of what came after it. A record that
    was not written to its end, and what is behind one that is none, is passed over.
    """
    from tensorboardX.proto.event_pb2 import SessionLog

    found: Scalars = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in _events(path.read_bytes()):
            if event.session_log.status == SessionLog.START:
                for values in found.values():
                    for step in [step for step in values if step >= event.step]:
                        del values[step]
            for value in event.summary.value:
                if value.HasField("simple_value") and math.isfinite(value.simple_value):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def _events(content: bytes) -> Iterator:
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event

    place = 0
    while place + _LENGTH + _CHECKSUM <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        begin = place + _LENGTH + _CHECKSUM
        place = begin + length + _CHECKSUM
        if place > len(content):
            return
        try:
            yield Event.FromString(content[begin : begin + length])
        except DecodeError:
            return
