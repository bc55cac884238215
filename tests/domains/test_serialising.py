"""Records written many at once are, byte by byte, what protobuf and TensorFlow write of each."""

import numpy as np
import pyarrow as pa
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from recalign.domains.serialising import Ragged, frame, serialise

NUMBERS = st.integers(0, 2**32 - 1) | st.integers(0, 300)
FLOATS = st.floats(width=32)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "user": st.lists(NUMBERS, min_size=1, max_size=1),
            "history": st.lists(NUMBERS, max_size=70),
            "ratings": st.lists(FLOATS, max_size=40),
        }
    ),
    max_size=8,
)


def gather(lists, dtype):
    offsets = np.cumsum([0, *map(len, lists)])
    return Ragged(np.array([value for values in lists for value in values], dtype), offsets)


@given(RECORDS)
def test_they_are_what_protobuf_writes(records):
    types = {"user": np.int64, "history": np.int64, "ratings": np.float32}
    written = serialise(
        {name: gather([r[name] for r in records], dtype) for name, dtype in types.items()}
    )
    expected = []
    for record in records:
        example = tf.train.Example()
        feature = example.features.feature
        feature["user"].int64_list.value.extend(record["user"])
        feature["history"].int64_list.value.extend(record["history"])
        feature["ratings"].float_list.value.extend(record["ratings"])
        expected.append(example.SerializeToString(deterministic=True))
    assert written.to_pylist() == expected


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(0, 8))
def test_their_frames_are_what_tensorflow_writes(tmp_path_factory, records, start):
    path = tmp_path_factory.mktemp("frames") / "records"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records[start:]:
            writer.write(record)
    assert bytes(frame(pa.array(records, pa.binary())[start:])) == path.read_bytes()
