"""What gives way where a sample is longer than its task: old items, then ends of titles."""

import re

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf

from recalign import prompts
from recalign.domains.readers import toyshop
from recalign.errors import UserError
from recalign.samples.items import SENTINELS, item_texts, longest_beginning
from recalign.samples.mim import mim
from recalign.samples.mlm import _longest_corruptible
from tests.samples.reading import fits, items_in, read
from tests.samples.shops import prepared
from tests.splits import rated as rated_of

KINDS = ("retrieval", "ranking", "rating", "mim", "mlm", "bpr")
ROOM = {"retrieval": 60, "ranking": 110, "rating": 90, "mim": 60, "mlm": 60, "bpr": 90}
ITEMS = 60
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def lengths(kind, targets=48):
    return {"inputs": ROOM[kind], "targets": targets}


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    """A rated shop: some titles have 41 words, others none, or a single one of 234 letters."""
    folder = tmp_path_factory.mktemp("long")
    raw = toyshop.generate(users=30, items=ITEMS)
    rng = np.random.default_rng(0)
    raw.interactions["rating"] = rng.integers(1, 6, len(raw.interactions))
    titles = [
        "many words " * 20 + "last",
        "",
        "".join(rng.permutation([*LETTERS] * 9)),
        "Kit (Red)",
        "Ball",
        "What? No!",
    ]
    raw.items["title"] = [titles[row % len(titles)] for row in range(ITEMS)]
    raw.interactions.to_csv(folder / "events.csv", index=False)
    raw.items.to_csv(folder / "items.csv", index=False)
    source = ["--interactions", folder / "events.csv", "--items", folder / "items.csv"]
    columns = ["--catalogue_item_column", "key", "--vocab_size", "500"]
    return prepared("longshop", folder, "table", *map(str, source), *columns)


def number_of_samples(domain, kind, split):
    if kind == "rating":
        return len(domain.rating_split(split))
    sizes = np.diff(domain.split(split).offsets) + 1
    if kind in ("mim", "mlm") or split == "test":
        return int((sizes > 1).sum())
    return int((sizes - 1).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_no_question_is_cut_and_each_has_the_newest_item_in_train_and_test_alike(domain, kind):
    limit = lengths(kind)
    titles = item_texts("longshop", str(domain.path.parent)).titles
    shown = {}
    for split in ("train", "test"):
        found = list(read(f"longshop_{kind}", split, limit))
        assert len(found) == number_of_samples(domain, kind, split)
        for sample in found:
            assert sample["inputs_tokens"] <= limit["inputs"]
            assert sample["targets_tokens"] <= limit["targets"]
            assert any(fits(t, sample["inputs"]) for t in getattr(prompts, kind.upper()))
            assert shows_history(kind, sample)
            for item, title in re.findall(r"#(\d\d) ([^;#<]*);", sample["inputs"]):
                shown.setdefault(int(item), set()).add(re.sub(r"(^| )rated \d$", "", title))
    if kind != "mlm":  # of which spans are hidden
        assert [written for written in shown.values() if len(written) > 1] == []
        assert all(titles[item].startswith(title) for item, [title] in shown.items())
        assert any(titles[item] != title for item, [title] in shown.items())


def shows_history(kind, sample):
    """Whether the newest item of the history stands in a question, where that can be told."""
    items = items_in(sample["inputs"])
    if kind == "retrieval":
        return items[-1] == sample["seen"][-1]
    if kind == "ranking":
        return sample["seen"][-1] in items and len(items) > len(sample["candidates"])
    if kind == "rating":  # of whom nothing else is known, nothing can be shown
        return " rated " in sample["inputs"] or len(items) == 1
    if kind == "bpr":
        return len(items) >= 3
    return "<extra_id_0>" in sample["inputs"]


def test_what_is_cut_is_counted(domain, caplog):
    list(read("longshop_retrieval", "test", {"inputs": 57, "targets": 8}))
    list(read("longshop_retrieval", "train", {"inputs": 57, "targets": 8}))
    told = [r.getMessage() for r in caplog.records if "shortened" in r.getMessage()]
    long = sum(len(title) > 200 for title in item_texts("longshop", str(domain.path.parent)).titles)
    assert [t.partition(" to the ")[0] for t in told] == [
        f"longshop_retrieval: the titles of {long} of {ITEMS} items are shortened"
    ]


@pytest.mark.parametrize(
    ("room", "expected"),
    [(3, "one two three"), (2, "one two"), (1, "one"), (0.5, "o"), (0, "")],
)
def test_the_longest_beginning(room, expected):
    def size(title):
        return sum(1 if len(word) > 1 else 0.5 for word in title.split())

    assert longest_beginning("one two three", lambda title: size(title) <= room) == expected
    assert longest_beginning("", lambda title: True) == ""


def test_an_item_fits_its_room_whatever_follows_it(domain):
    texts = item_texts("longshop", str(domain.path.parent))
    vocabulary = seqio.TaskRegistry.get("longshop_bpr").output_features["inputs"].vocabulary
    marks = {";", "", "?", "."}
    for room in (8, 20, 40):
        short = texts.shorten(room, marks, vocabulary)
        bound = short.most_tokens(marks, vocabulary)
        for item in range(ITEMS):
            counts = [len(vocabulary.encode(short.mention[item] + mark)) for mark in marks]
            assert max(counts) == bound[item] <= room
            assert len(vocabulary.encode(short.history[item])) == short.history_tokens[item]
            assert short.mention[item].startswith(texts.ids[item])
        kept = texts.most_tokens(marks, vocabulary) <= room
        assert (short.mention == texts.mention)[kept].all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_length_is_told_and_is_enough(domain, kind):
    """For items that are written as their ids; lists of candidates may have titles."""
    number = {"bpr": 3, "rating": 2}.get(kind, 1)
    items = f"{number} item{'s' * (number > 1)}"
    gin.bind_parameter("ranking.ranking.candidate_form", "id_title")

    def samples(length):
        return read(f"longshop_{kind}", "train", {"inputs": length, "targets": 48})

    refused = f"longshop_{kind}: its longest question, {items} and EOS"
    with pytest.raises(UserError, match=refused) as told:
        next(samples(16))
    least = int(re.search(r"EOS are (\d+) tokens", str(told.value))[1])
    with pytest.raises(UserError, match=f"EOS are {least} tokens"):
        next(samples(least - 1))
    found = list(samples(least))
    for sample in found:
        assert sample["inputs_tokens"] <= least
        assert shows_history(kind, sample)
    if kind == "rating":
        split = domain.rating_split("train")
        others = [len(rated_of(split, e)[0]) for e in range(len(split))]
        shown = [bool(re.search(r"rated \d;", sample["inputs"])) for sample in found]
        assert sum(shown) == np.count_nonzero(others)


def test_targets_too_short_for_any_span_are_refused(domain):
    with pytest.raises(UserError, match=r"longshop_mlm: TASK_FEATURE_LENGTHS\['targets'\] = 2 "):
        next(read("longshop_mlm", "train", {"inputs": 60, "targets": 2}))


@pytest.mark.parametrize("density", [0.15, 0.3, 0.5])
@pytest.mark.parametrize("length", [3, 4, 8, 32])
def test_corrupted_targets_fit(domain, density, length):
    gin.bind_parameter("mlm.mlm.noise_density", density)
    for sample in read("longshop_mlm", "train", {"inputs": 200, "targets": length}):
        assert sample["targets_tokens"] <= length
        assert sample["targets"].count("<extra_id_0>") == 1
    assert _longest_corruptible(length, density, 3.0) > 0


@pytest.mark.parametrize(("density", "mean_span"), [(0.15, 3.0), (0.5, 1.0), (0.3, 2.5)])
def test_no_history_is_so_long_that_sentinels_run_out(density, mean_span):
    tokens = _longest_corruptible(10**6, density, mean_span)
    assert round(round(tokens * density) / mean_span) == SENTINELS


@pytest.mark.parametrize("room", [None, {"inputs": 20_000, "targets": 2_000}])
def test_a_history_of_more_hidden_items_than_there_are_sentinels_shows_the_rest(domain, room):
    events = np.tile(np.arange(ITEMS, dtype=np.int32), 3)
    features = seqio.TaskRegistry.get("longshop_mim").output_features
    [sample] = mim(
        tf.data.Dataset.from_tensors({"events": events, "train": True}),
        *("longshop", str(domain.path.parent), room, features),
        max_history=len(events),
        mask_rate=1.0,
    )
    shown = items_in(sample["inputs"].numpy().decode())
    hidden = items_in(sample["targets"].numpy().decode())
    assert hidden == events[:SENTINELS].tolist()
    assert shown == events[SENTINELS:].tolist()
