"""Change the held-out events alone, and nothing that is learned from changes."""

import dataclasses
from collections import Counter

import gin
import numpy as np
import pytest
import seqio
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign import domains
from recalign.domains import codes, records, statistics, vocabulary
from recalign.domains.assemble import assemble
from recalign.domains.domain import MIN_EVENTS
from recalign.domains.rating import PARTS
from recalign.domains.readers import toyshop
from recalign.domains.vectors import (
    co_occurrence_vectors,
    explained_text_vectors,
    text_vectors,
)
from recalign.evaluation.baselines.counting import ItemCooccurrence, Popularity
from tests.samples.reading import items_in
from tests.samples.shops import prepared

TASKS = ("retrieval", "ranking", "rating", "mim", "mlm", "bpr")


def shop(users, items, seed):
    """A shop's raw interactions, with ratings and one item twice."""
    raw = toyshop.generate(users=users, items=items, seed=seed)
    stars = np.random.default_rng(seed).integers(1, 6, len(raw.interactions))
    raw.interactions["rating"] = stars.astype(np.float32)
    return raw


def held_out(raw):
    """Row numbers of the last two events of every user who has three or more."""
    order = raw.interactions.sort_values("timestamp", kind="stable")
    groups = order.groupby("user", sort=False)
    last = groups.cumcount(ascending=False) < MIN_EVENTS - 1
    long = groups["item"].transform("size") >= MIN_EVENTS
    return order.index[last & long]


def with_other_held_out_events(raw, seed):
    """Other items and other ratings for the held-out events."""
    rng, rows = np.random.default_rng(seed), held_out(raw)
    raw.interactions.loc[rows, "item"] = rng.choice(raw.items["key"].to_numpy(object), len(rows))
    raw.interactions.loc[rows, "rating"] = rng.integers(0, 12, len(rows)).astype(np.float32)
    return raw


def learned_from(domain, folder):
    """All that training sees of a domain, by name."""
    folder.mkdir()
    vocabulary.train(domain.items, domain.id_pieces, 400, folder)
    popularity = Popularity().fit(*domain.train(), domain.num_items)
    nearest = ItemCooccurrence().fit(*domain.train(), domain.num_items)
    ids = [
        codes.make(method, codes.known_vectors(source, domain.items, *domain.train()), 2, 6, 0)
        for method, source in (("rkmeans", "both"), ("pq", "co_occurrence"), ("pq", "titles"))
    ]
    split, ratings = domain.split("train"), domain.rating_split("train")
    described = statistics.describe(domain)
    train = vars(split) | {f"rated_{name}": value for name, value in vars(ratings).items()}
    return train | {
        "vocabulary": np.frombuffer((folder / "spiece.model").read_bytes(), np.uint8),
        "keys": domain.items["key"].to_numpy(object),
        "ids": domain.item_ids,
        "ids of codes": np.stack([found.texts() for found in ids]),
        "centres of codes": np.stack([found.codebooks.sum() for found in ids]),
        "popularity": popularity.order,
        "co-occurrence": nearest.by_item.toarray(),
        "vectors of texts": text_vectors(domain.items, 8),
        "vectors of co-occurrence": co_occurrence_vectors(*domain.train(), domain.num_items, 8),
        "explained texts": explained_text_vectors(domain.items, *domain.train(), 8),
        "rating parts": domain.rating_parts,
        "star texts": np.array(described["ratings"]["values"]),
        "mean rating": np.array(described["ratings"]["mean"]),
        "length of candidate lists": np.array(domain.candidates("test").shape[1]),
    }


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.integers(0, 2**20), st.sampled_from([30, 140]))
def test_all_that_is_learned_from_is_the_same(tmp_path_factory, seed, other, items):
    folder = tmp_path_factory.mktemp("leaks")
    one = assemble(shop(14, items, seed), "shop", seed)
    two = assemble(with_other_held_out_events(shop(14, items, seed), other), "shop", seed)
    first, second = learned_from(one, folder / "one"), learned_from(two, folder / "two")
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert first.keys() == second.keys()
    test, changed = one.split("test"), two.split("test")
    assert (test.users == changed.users).all()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two domains that differ in their held-out events, prepared under names of one length."""
    root = tmp_path_factory.mktemp("leaks")
    for name, raw in (
        ("leakone", shop(50, 60, 0)),
        ("leaktwo", with_other_held_out_events(shop(50, 60, 0), 1)),
    ):
        raw.interactions.to_csv(root / f"{name}.csv", index=False)
        raw.items.to_csv(root / "items.csv", index=False)
        tables = ["--interactions", root / f"{name}.csv", "--items", root / "items.csv"]
        columns = ["--catalogue_item_column", "key", "--vocab_size", "500"]
        prepared(name, root, "table", *map(str, tables), *columns)
    return root


def test_the_records_of_train_are_equal_byte_by_byte(folders):
    for build in ("1.0.0", "rating/1.0.0"):
        contents = {}
        for name in ("leakone", "leaktwo"):
            for path in sorted((folders / name / build).glob("*.tfrecord*")):
                split = path.name.split("-")[1].split(".")[0]
                contents.setdefault(split, []).append(path.read_bytes())
        assert contents["train"][0] == contents["train"][1]
        if build == "1.0.0":
            assert contents["test"][0] != contents["test"][1]
            assert contents["validation"][0] != contents["validation"][1]
        else:  # ratings are split within the train events
            assert contents["test"][0] == contents["test"][1]


def test_every_training_sample_that_goes_on_is_the_same(folders):
    for name, value in {
        "retrieval.retrieval.answer_prefix": 2,
        "retrieval.retrieval.next_items": 9,
        "retrieval.retrieval.cuts_per_sequence": 2,
        "retrieval.retrieval.templates": ("{neighbours} near {history}",),
        "item_texts.add_eos": False,
    }.items():
        gin.bind_parameter(name, value)
    test_every_training_sample_is_the_same(folders, "retrieval")


@pytest.mark.parametrize("kind", TASKS)
def test_every_training_sample_is_the_same(folders, kind):
    def samples(name):
        task = seqio.TaskRegistry.get(f"{name}_{kind}")
        lengths = {"inputs": 200, "targets": 64}
        dataset = task.get_dataset(lengths, "train", shuffle=True, seed=5, num_epochs=2)
        return [
            (example["inputs"].tobytes(), example["targets"].tobytes())
            for example in dataset.as_numpy_iterator()
        ]

    first, second = samples("leakone"), samples("leaktwo")
    assert len(first) > 50
    assert first == second


def test_no_train_record_holds_a_rating_that_is_to_be_predicted(tmp_path):
    """Other values of those ratings change the splits that ask for them, and no other file."""
    one = assemble(shop(50, 60, 0), "shop")
    asked = one.rating_parts > PARTS["train"]
    assert asked.sum() > 20
    two = dataclasses.replace(one, ratings=np.where(asked, one.ratings + 10, one.ratings))
    for domain, name in ((one, "one"), (two, "two")):
        (tmp_path / name).mkdir()
        records.write(domain, tmp_path / name)
    changed = {
        f"{path.parent.parent.name}/{path.name.split('-')[1].split('.')[0]}"
        for path in (tmp_path / "one").rglob("*.tfrecord*")
        if path.read_bytes() != (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    }
    assert changed == {"rating/validation", "rating/test"}


@pytest.mark.parametrize("kind", ["ranking", "bpr"])
def test_held_out_items_are_negatives_of_training_like_any_others(folders, kind):
    """Were a held-out item left out of a user's negatives, it would be the one never denied."""
    domain = domains.load("leakone", folders)
    user, held = next(
        (user, {*events[-2:]} - {*events[:-2]})
        for user, events in enumerate(np.split(domain.events, domain.offsets[1:-1]))
        if len(events) == 5 and len({*events}) == 5
    )
    assert len(held) == 2
    task = seqio.TaskRegistry.get(f"leakone_{kind}")
    records = task.source.get_dataset("train", shuffle=False)
    examples = task.preprocess_precache(records.filter(lambda record: record["user"] == user))
    lengths = {"inputs": 200, "targets": 8}
    drawn = Counter()
    for sample in task.preprocess_postcache(examples.repeat(400), lengths, seed=1):
        decode = task.output_features["inputs"].vocabulary.decode
        shown = items_in(decode(sample["inputs"].numpy().tolist()))
        target = items_in(decode(sample["targets"].numpy().tolist()))
        offered = sample["candidates"].numpy().tolist() if kind == "ranking" else shown[-2:]
        drawn.update({*offered} - {*target})
    free = {*range(domain.num_items)} - {*domain.events[domain.offsets[user] :][:3].tolist()}
    assert drawn.keys() == free
    expected = drawn.total() / len(free)
    assert all(abs(drawn[item] - expected) < 5 * np.sqrt(expected) for item in held)
