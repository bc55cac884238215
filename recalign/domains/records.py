"""The TensorFlow Datasets build of a prepared domain, written without TensorFlow.

`DATA_DIR/NAME/1.0.0/` has the splits train, validation and test, one record a user (see
`recalign.domains.Domain.split`), so that `tfds.builder(NAME, data_dir=DATA_DIR)` and
`seqio.TfdsDataSource("NAME:1.0.0", tfds_data_dir=DATA_DIR)` read it, from local disk or a bucket,
without any code of ours. Ratings are split in another way, and so are a configuration apart,
`NAME/rating:1.0.0`, which a domain without ratings lacks.

The catalogue is not among the splits: all splits of a TFDS dataset share one feature specification.
It stays in `items.parquet` beside the build, as a vocabulary file would.

The records are written by `serialising` and described by `tfds.folder_dataset`
(https://www.tensorflow.org/datasets/external_tfrecord), which does not import TensorFlow, not by a
`GeneratorBasedBuilder`: the serialiser of TFDS writes the features of a record in another order in
each process, so the same domain would have another hash each time, and takes ten times as long.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow_datasets as tfds

from recalign.domains.candidates import read_rows
from recalign.domains.domain import CANDIDATE_SPLITS, SPLITS, Domain, Split, list_positions
from recalign.domains.rating import RatingSplit
from recalign.domains.serialising import Ragged, frame, serialise

VERSION = "1.0.0"
RATING = "rating"
# A file is the unit that hosts share out; one file keeps a small domain in user order.
RECORDS_PER_SHARD = 1 << 18
_CHUNK = 1 << 14

_DESCRIPTION = (
    "Leave-one-out sequences of the domain {name}: {users} users, {items} items, {interactions} "
    "interactions. One record a user: `history` (item indices, oldest first), `target` (the item "
    "that came next). train is made from train events alone; validation asks for the last "
    "but one event, test for the last; both have `candidates`, the target among items that the "
    "user never touched. Row i of `items.parquet`, one folder up, is the item with index i."
)
_RATING_DESCRIPTION = (
    "Ratings of the domain {name}: {train} for training, {validation} for validation, {test} for "
    "test. One record a user: `items` and `ratings` are his training ratings, oldest first, "
    "`target_items` and `target_ratings` those of the split. Row i of `items.parquet`, two folders "
    "up, is the item with index i."
)

_CITATION = """\
@inproceedings{cao2024aligning,
  title = {Aligning Large Language Models with Recommendation Knowledge},
  author = {Cao, Yuwei and others},
  booktitle = {Findings of the Association for Computational Linguistics: NAACL 2024},
  note = {arXiv:2404.00245; the method that reads this dataset},
  year = {2024},
}"""


def features() -> tfds.features.FeaturesDict:
    """The features of a record.

    `user` int32, `history` int32[…], `target` int32, `candidates` int32[…], `train` bool.

    SeqIO tells a preprocessor nothing of the split that it works on, so each record says whether it
    may be trained on: then every event after the first is a target too. Ratings are split in
    another way, so that those of train events may be for test: they are no part of it.
    """
    return tfds.features.FeaturesDict(
        {
            "user": tfds.features.Scalar(np.int32),
            "history": tfds.features.Sequence(tfds.features.Scalar(np.int32)),
            "target": tfds.features.Scalar(np.int32),
            "candidates": tfds.features.Sequence(tfds.features.Scalar(np.int32)),
            "train": tfds.features.Scalar(np.bool_),
        }
    )


def rating_features() -> tfds.features.FeaturesDict:
    """The features of a record of ratings.

    `user` int32, `items` int32[r], `ratings` float32[r], `target_items` int32[t], `target_ratings`
    float32[t], `train` bool.
    """
    items = tfds.features.Sequence(tfds.features.Scalar(np.int32))
    ratings = tfds.features.Sequence(tfds.features.Scalar(np.float32))
    return tfds.features.FeaturesDict(
        {
            "user": tfds.features.Scalar(np.int32),
            "items": items,
            "ratings": ratings,
            "target_items": items,
            "target_ratings": ratings,
            "train": tfds.features.Scalar(np.bool_),
        }
    )


def write(domain: Domain, folder: Path) -> None:
    """Writes the TFDS builds of a domain into `folder/1.0.0` and `folder/rating/1.0.0`.

    The files depend on the domain alone: written twice, they are equal byte by byte.
    """
    _write_build(
        domain,
        folder / VERSION,
        features(),
        {name: (domain.num_examples(name), _records(domain, name)) for name in SPLITS},
        _DESCRIPTION.format(
            name=domain.name,
            users=domain.num_users,
            items=domain.num_items,
            interactions=domain.num_events,
        ),
    )
    if domain.has_rating_task:
        sizes = {name: _count_ratings(domain, name) for name in SPLITS}
        _write_build(
            domain,
            folder / RATING / VERSION,
            rating_features(),
            {name: (users, _rating_records(domain, name)) for name, (users, _) in sizes.items()},
            _RATING_DESCRIPTION.format(
                name=domain.name, **{name: ratings for name, (_, ratings) in sizes.items()}
            ),
        )


def _count_ratings(domain: Domain, name: str) -> tuple[int, int]:
    """How many users have a rating in a split, and how many ratings it has."""
    splits = [piece.rating_split(name).users for piece in domain.pieces()]
    return sum(len(np.unique(users)) for users in splits), sum(map(len, splits))


def _write_build(
    domain: Domain,
    build: Path,
    features: tfds.features.FeaturesDict,
    splits: Mapping[str, tuple[int, Iterator[pa.BinaryArray]]],
    description: str,
) -> None:
    """Writes one TFDS build; `splits` tells how many records each has, and those."""
    build.mkdir(parents=True)
    template = tfds.core.ShardedFileTemplate(
        dataset_name=domain.name, data_dir=build, filetype_suffix="tfrecord"
    )
    with ThreadPoolExecutor() as pool:  # most is done by NumPy and Arrow without Python's lock
        infos = pool.map(lambda n: _write_split(template.replace(split=n), *splits[n]), splits)
    tfds.folder_dataset.write_metadata(
        data_dir=build,
        features=features,
        split_infos=[*infos],
        version=VERSION,
        filename_template=template,
        check_data=False,
        # The records are in user order, but training need not read them so: SeqIO shuffles files.
        disable_shuffling=False,
        description=description,
        citation=_CITATION,
        metadata=tfds.core.MetadataDict(
            recalign_version=domain.statistics.get("recalign_version", "")
        ),
    )


def _write_split(
    template: tfds.core.ShardedFileTemplate, size: int, chunks: Iterator[pa.BinaryArray]
) -> tfds.core.SplitInfo:
    shards = -(-size // RECORDS_PER_SHARD)
    lengths = np.diff(np.linspace(0, size, shards + 1).astype(np.int64)).tolist()
    rest, num_bytes = pa.array([], pa.binary()), 0
    for shard, left in enumerate(lengths):
        path = template.sharded_filepath(shard_index=shard, num_shards=shards)
        with open(path, "wb") as file:
            while left:
                rest = rest if len(rest) else next(chunks)
                records, rest = rest[:left], rest[left:]
                left -= len(records)
                file.write(frame(records))
                num_bytes += pc.sum(pc.binary_length(records)).as_py()
    return tfds.core.SplitInfo(
        name=template.split,
        shard_lengths=lengths,
        num_bytes=num_bytes,
        filename_template=template,
    )


def _records(domain: Domain, name: str) -> Iterator[pa.BinaryArray]:
    """Serialised `tf.train.Example`s of the examples of a split; those of train have no lists."""
    # Opened before threads ask for records: NumPy reads a header by Python's parser, which in 3.11
    # two threads at once can break.
    lists = domain.candidates(name) if name in CANDIDATE_SPLITS else None

    def serialised() -> Iterator[pa.BinaryArray]:
        start = 0
        for piece in domain.pieces():
            split = piece.split(name)
            for low in range(0, len(split), _CHUNK):
                high = min(low + _CHUNK, len(split))
                rows = None if lists is None else read_rows(lists, start + low, start + high)
                yield serialise(_features(split, rows, low, high, piece.first_user))
            start += len(split)

    return serialised()


def _features(
    split: Split, lists: np.ndarray | None, low: int, high: int, first_user: int
) -> dict[str, Ragged]:
    """The features of some examples of a split."""
    rows, train = high - low, lists is None
    offsets = split.offsets[low : high + 1]
    lists = np.zeros((rows, 0), np.int32) if lists is None else lists
    return {
        "user": Ragged.one_each(split.users[low:high] + first_user),
        "history": Ragged(split.events[offsets[0] : offsets[-1]], offsets - offsets[0]),
        "target": Ragged.one_each(split.targets[low:high]),
        "candidates": Ragged(lists.ravel(), np.arange(rows + 1) * lists.shape[1]),
        "train": Ragged.one_each(np.full(rows, int(train))),
    }


def _rating_records(domain: Domain, name: str) -> Iterator[pa.BinaryArray]:
    """Serialised `tf.train.Example`s of the users with a target."""
    for piece in domain.pieces():
        split = piece.rating_split(name)
        users, first = np.unique(split.users, return_index=True)
        bounds = np.append(first, len(split))
        for low in range(0, len(users), _CHUNK):
            asked = bounds[low : low + _CHUNK + 1]
            chunk = _rating_features(split, users[low : low + _CHUNK], asked)
            chunk["user"] = Ragged.one_each(users[low : low + _CHUNK] + piece.first_user)
            chunk["train"] = Ragged.one_each(np.full(len(asked) - 1, int(name == "train")))
            yield serialise(chunk)


def _rating_features(split: RatingSplit, users: np.ndarray, asked: np.ndarray) -> dict[str, Ragged]:
    """The items and ratings of some users; those asked for are from each of the bounds on."""
    starts = split.train_offsets[users]
    lengths = split.train_offsets[users + 1] - starts
    known = list_positions(starts, lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    targets = slice(asked[0], asked[-1])
    return {
        "items": Ragged(split.train_items[known], offsets),
        "ratings": Ragged(split.train_ratings[known], offsets),
        "target_items": Ragged(split.items[targets], asked - asked[0]),
        "target_ratings": Ragged(split.ratings[targets], asked - asked[0]),
    }
