"""The TFDS build of a domain, read back by TFDS and by SeqIO without code of ours."""

import dataclasses
import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

from recalign.domains import records
from recalign.domains.assemble import assemble
from recalign.domains.domain import SPLITS
from recalign.domains.readers import toyshop
from recalign.samples.records import Records
from tests.splits import history as history_of


@pytest.fixture(scope="module")
def domain():
    return assemble(toyshop.generate(users=40, items=50), "corner_shop")


@pytest.fixture(scope="module")
def rated(domain):
    ratings = np.random.default_rng(0).integers(1, 6, len(domain.events)).astype(np.float32)
    return dataclasses.replace(domain, ratings=ratings)


def build(domain, root):
    folder = root / domain.name
    folder.mkdir()
    records.write(domain, folder)
    return root


@pytest.fixture(scope="module")
def root(domain, tmp_path_factory):
    return build(domain, tmp_path_factory.mktemp("plain"))


def assert_same(records, split, train):
    assert len(records) == len(split)
    for e, record in enumerate(records):
        assert record["user"] == split.users[e]
        assert record["target"] == split.targets[e]
        assert record["train"] == train
        np.testing.assert_array_equal(record["history"], history_of(split, e))


@pytest.mark.parametrize("name", SPLITS)
def test_seqio_reads_the_splits_of_the_domain(domain, root, name):
    source = seqio.TfdsDataSource("corner_shop:1.0.0", tfds_data_dir=str(root))
    split = domain.split(name)
    assert source.num_input_examples(name) == len(split)
    records = list(source.get_dataset(name, shuffle=False).as_numpy_iterator())
    assert_same(records, split, name == "train")


def test_tfds_knows_the_dataset_by_its_name(domain, root):
    builder = tfds.builder("corner_shop", data_dir=root)
    info = builder.info
    assert info.full_name == "corner_shop/1.0.0"
    assert set(info.splits) == set(SPLITS)
    assert "40 users, 50 items" in info.description
    assert "2404.00245" in info.citation
    assert info.features.dtype == {
        "user": np.int32, "history": np.int32, "target": np.int32, "train": np.bool_,
        "candidates": np.int32,
    }  # fmt: skip
    assert_same(list(tfds.as_numpy(builder.as_dataset("test"))), domain.split("test"), False)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_candidates(domain, root, name):
    builder = tfds.builder("corner_shop", data_dir=root)
    lists = [record["candidates"] for record in tfds.as_numpy(builder.as_dataset(name))]
    np.testing.assert_array_equal(lists, domain.candidates(name))
    for record in tfds.as_numpy(builder.as_dataset("train")):
        assert not len(record["candidates"])


@pytest.mark.parametrize("name", SPLITS)
def test_the_rating_split_is_a_configuration_of_its_own(rated, tmp_path, name):
    root = build(rated, tmp_path)
    builder = tfds.builder("corner_shop/rating", data_dir=root)
    assert set(builder.info.features) == set(records.rating_features())
    assert set(tfds.builder("corner_shop", data_dir=root).info.features) == set(records.features())
    source = seqio.TfdsDataSource("corner_shop/rating:1.0.0", tfds_data_dir=str(root))
    split, found = rated.rating_split(name), []
    for record in source.get_dataset(name, shuffle=False).as_numpy_iterator():
        user = record["user"]
        assert record["train"] == (name == "train")
        known = slice(split.train_offsets[user], split.train_offsets[user + 1])
        np.testing.assert_array_equal(record["items"], split.train_items[known])
        np.testing.assert_array_equal(record["ratings"], split.train_ratings[known])
        targets = zip(record["target_items"], record["target_ratings"], strict=True)
        found += [(user, *target) for target in targets]
    assert found == [*zip(split.users, split.items, split.ratings, strict=True)]


def test_a_domain_without_ratings_has_no_rating_build(root):
    assert not (root / "corner_shop" / "rating").exists()


def test_several_shards(domain, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORDS_PER_SHARD", 15)
    monkeypatch.setattr(records, "_CHUNK", 4)
    source = seqio.TfdsDataSource("corner_shop:1.0.0", tfds_data_dir=str(build(domain, tmp_path)))
    assert len(source.list_shards("train")) == 3
    split = domain.split("train")
    targets = {}
    for index in range(3):
        shard = seqio.ShardInfo(index, 3)
        for record in source.get_dataset("train", shuffle=False, shard_info=shard):
            targets[int(record["user"])] = int(record["target"])
    assert targets == dict(zip(split.users.tolist(), split.targets.tolist(), strict=True))


@pytest.mark.parametrize(("parts", "shuffle"), [(2, False), (3, True), (41, False)])
def test_every_record_is_in_one_part_whatever_the_number_of_parts_and_files(
    domain, tmp_path, monkeypatch, parts, shuffle
):
    monkeypatch.setattr(records, "RECORDS_PER_SHARD", 15)  # three files
    source = Records("corner_shop:1.0.0", tfds_data_dir=str(build(domain, tmp_path)))
    found = []
    for index in range(parts):
        part = seqio.ShardInfo(index, parts)
        dataset = source.get_dataset("train", shuffle, seed=0, shard_info=part)
        found.append([int(record["user"]) for record in dataset])
    users = itertools.chain.from_iterable(found)
    assert sorted(users) == sorted(domain.split("train").users.tolist())
    assert {len(part) for part in found} <= {40 // parts, 40 // parts + 1}


def test_records_of_several_files_come_in_the_order_of_users_unless_they_are_shuffled(
    domain, tmp_path, monkeypatch
):
    """TFDS takes turns between files, 16 records of each: whose an example is would be unknown."""
    monkeypatch.setattr(records, "RECORDS_PER_SHARD", 20)  # two files
    source = Records("corner_shop:1.0.0", tfds_data_dir=str(build(domain, tmp_path)))

    def users(shuffle):
        read = source.get_dataset("validation", shuffle, seed=0)
        return [int(record["user"]) for record in read]

    assert users(shuffle=False) == [*range(40)]
    assert users(shuffle=True) != sorted(users(shuffle=True)) == [*range(40)]


def test_the_order_of_files_follows_from_the_seed(domain, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORDS_PER_SHARD", 5)  # eight files
    source = Records("corner_shop:1.0.0", tfds_data_dir=str(build(domain, tmp_path)))

    def users(seed, part):
        dataset = source.get_dataset("train", shuffle=True, seed=seed, shard_info=part)
        return [int(record["user"]) for record in dataset]

    for part in (None, seqio.ShardInfo(1, 2)):
        assert users(0, part) == users(0, part) != users(1, part)


PROGRAM = """
import pathlib, sys
from recalign.domains.readers import toyshop
from recalign.domains.assemble import assemble
from recalign.domains import records

domain = assemble(toyshop.generate(users=40, items=50), "corner_shop")
records.write(domain, pathlib.Path(sys.argv[1]))
"""


def test_another_process_writes_the_same_bytes(root, tmp_path):
    # TFDS's own serialiser does not: the order of a record's features varies by process.
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True, capture_output=True)

    def digests(folder):
        files = sorted((folder / "1.0.0").iterdir())
        return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    assert digests(tmp_path) == digests(root / "corner_shop")
    assert len(digests(tmp_path)) == 6
