"""The TensorFlow Datasets build of a prepared domain, as SeqIO reads it.

`DATA_DIR/NAME/1.0.0/` has the splits train, validation and test, one record a user (see
`recalign.domains.Domain.split`), so that `tfds.builder(NAME, data_dir=DATA_DIR)` and
`seqio.TfdsDataSource("NAME:1.0.0", tfds_data_dir=DATA_DIR)` read it, from local disk or a bucket,
without any code of ours.

The catalogue is not among the splits: all splits of a TFDS dataset share one feature specification.
It stays in `items.parquet` beside the build, as a vocabulary file would.

The records are written by `tf.io.TFRecordWriter` and described by `tfds.folder_dataset`
(https://www.tensorflow.org/datasets/external_tfrecord), not by a `GeneratorBasedBuilder`: the
serialiser of TFDS writes the features of a record in another order in each process, so the same
domain would have another hash each time, and takes ten times as long.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from recalign.domains.domain import SPLITS, Domain, Split

VERSION = "1.0.0"
# A file is the unit that hosts share out; one file keeps a small domain in user order.
RECORDS_PER_SHARD = 1 << 18
_CHUNK = 1 << 14

_DESCRIPTION = (
    "Leave-one-out sequences of the domain {name}: {users} users, {items} items, {interactions} "
    "interactions. One record a user: `history` (item indices, oldest first), `target` (the item "
    "that came next){ratings}. train is made from train events alone; validation asks for the last "
    "but one event, test for the last. Row i of `items.parquet`, one folder up, is the item with "
    "index i."
)

_CITATION = """\
@inproceedings{cao2024aligning,
  title = {Aligning Large Language Models with Recommendation Knowledge},
  author = {Cao, Yuwei and others},
  booktitle = {Findings of the Association for Computational Linguistics: NAACL 2024},
  note = {arXiv:2404.00245; the method that reads this dataset},
  year = {2024},
}"""


def features(rated: bool) -> tfds.features.FeaturesDict:
    """The features of a record: `user` int32, `history` int32[…], `target` int32, `train` bool.

    SeqIO tells a preprocessor nothing of the split that it works on, so each record says whether it
    may be trained on: then every event after the first is a target too.

    Args:
      rated: adds `history_ratings` float32[…], one for each item of the history, and
        `target_rating` float32; nan stands for a missing rating.
    """
    spec = {
        "user": tfds.features.Scalar(np.int32),
        "history": tfds.features.Sequence(tfds.features.Scalar(np.int32)),
        "target": tfds.features.Scalar(np.int32),
        "train": tfds.features.Scalar(np.bool_),
    }
    if rated:
        spec["history_ratings"] = tfds.features.Sequence(tfds.features.Scalar(np.float32))
        spec["target_rating"] = tfds.features.Scalar(np.float32)
    return tfds.features.FeaturesDict(spec)


def write(domain: Domain, folder: Path) -> None:
    """Writes the TFDS build of a domain into `folder/1.0.0`.

    The files depend on the domain alone: written twice, they are equal byte by byte.

    Args:
      domain: it gives the splits and the name.
      folder: the domain's folder, of any name; it must exist.
    """
    build = folder / VERSION
    build.mkdir()
    template = tfds.core.ShardedFileTemplate(
        dataset_name=domain.name, data_dir=build, filetype_suffix="tfrecord"
    )
    infos = [_write_split(name, domain.split(name), template) for name in SPLITS]
    statistics = domain.statistics
    rated = domain.ratings is not None
    tfds.folder_dataset.write_metadata(
        data_dir=build,
        features=features(rated),
        split_infos=infos,
        version=VERSION,
        filename_template=template,
        check_data=False,
        # The records are in user order, but nothing hangs on it: SeqIO may shuffle the files.
        disable_shuffling=False,
        description=_DESCRIPTION.format(
            name=domain.name,
            users=domain.num_users,
            items=domain.num_items,
            interactions=len(domain.events),
            ratings=", and the ratings of both" if rated else "",
        ),
        citation=_CITATION,
        metadata=tfds.core.MetadataDict(recalign_version=statistics.get("recalign_version", "")),
    )


def _write_split(
    name: str, split: Split, template: tfds.core.ShardedFileTemplate
) -> tfds.core.SplitInfo:
    template = template.replace(split=name)
    shards = -(-len(split) // RECORDS_PER_SHARD)
    bounds = np.linspace(0, len(split), shards + 1).astype(np.int64)
    num_bytes = 0
    for shard in range(shards):
        path = template.sharded_filepath(shard_index=shard, num_shards=shards)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in _records(split, name == "train", bounds[shard], bounds[shard + 1]):
                writer.write(record)
                num_bytes += len(record)
    return tfds.core.SplitInfo(
        name=name,
        shard_lengths=np.diff(bounds).tolist(),
        num_bytes=num_bytes,
        filename_template=template,
    )


def _records(split: Split, train: bool, start: int, stop: int) -> Iterator[bytes]:
    """Serialised `tf.train.Example`s of the examples start … stop - 1."""
    for low in range(start, stop, _CHUNK):
        yield from _chunk(split, train, low, min(low + _CHUNK, stop))


def _chunk(split: Split, train: bool, low: int, high: int) -> Iterator[bytes]:
    # Lists of Python numbers, made by the chunk: protobuf takes them several times faster than
    # slices of arrays.
    first, last = split.offsets[low], split.offsets[high]
    offsets = (split.offsets[low : high + 1] - first).tolist()
    events = split.events[first:last].tolist()
    users, targets = split.users[low:high].tolist(), split.targets[low:high].tolist()
    rated = split.ratings is not None
    if rated:
        ratings = split.ratings[first:last].tolist()
        target_ratings = split.target_ratings[low:high].tolist()
    for e in range(high - low):
        example = tf.train.Example()
        feature = example.features.feature
        history = slice(offsets[e], offsets[e + 1])
        feature["user"].int64_list.value.append(users[e])
        feature["history"].int64_list.value.extend(events[history])
        feature["target"].int64_list.value.append(targets[e])
        feature["train"].int64_list.value.append(int(train))
        if rated:
            feature["history_ratings"].float_list.value.extend(ratings[history])
            feature["target_rating"].float_list.value.append(target_ratings[e])
        yield example.SerializeToString(deterministic=True)
