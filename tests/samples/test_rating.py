"""Rating samples, against the split of the ratings."""

import re
from collections import Counter

import numpy as np
import pytest
import seqio

from recalign import prompts
from recalign.errors import UserError
from recalign.evaluation.metrics import rating_in
from recalign.samples import judged
from recalign.samples.registry import register_domain
from tests.samples.reading import fits, read
from tests.samples.shops import prepared
from tests.splits import rated as rated_of

SPLITS = ("train", "validation", "test")
RATED = re.compile(r"#(\d+) [^;#]*? rated ([\d.]+);")


def triples(split):
    return Counter(zip(split.users.tolist(), split.items.tolist(), split.ratings, strict=True))


@pytest.mark.parametrize("name", SPLITS)
def test_every_rating_is_asked_for_once_after_the_users_other_training_ratings(rated, name):
    split = rated.rating_split(name)
    place = {(u, i): e for e, (u, i) in enumerate(zip(split.users, split.items, strict=True))}
    samples = list(read("ratedshop_rating", name, lengths=None))
    assert Counter((s["user"], s["item"], s["rating"]) for s in samples) == triples(split)
    for sample in samples:
        items, ratings = rated_of(split, place[sample["user"], sample["item"]])
        shown = [(int(i), float(r)) for i, r in RATED.findall(sample["inputs"])]
        assert shown == [*zip(items[-20:].tolist(), ratings[-20:].tolist(), strict=True)]
        assert sample["targets"] == f"{sample['rating']:g}"
        assert f"#{sample['item']:02d} {rated.items['title'][sample['item']]}" in sample["inputs"]
        assert sample["inputs"].count(f"#{sample['item']:02d} ") == 1
        assert any(fits(t, sample["inputs"]) for t in prompts.RATING)
        if name != "train":
            assert fits(prompts.RATING[0], sample["inputs"])


def test_no_question_says_that_it_is_asked_after_the_ratings_it_shows(rated):
    """Ratings are split at random: some that are shown were made later."""
    split = rated.rating_split("test")
    place = {(u, i): e for e, (u, i) in enumerate(zip(split.users, split.items, strict=True))}
    of_user = np.split(rated.events, rated.offsets[1:-1])
    later = 0
    for user, item in place:
        known, _ = rated_of(split, place[user, item])
        order = {event: age for age, event in enumerate(of_user[user].tolist())}
        later += any(order[event] > order[item] for event in known.tolist())
    assert later > len(split) / 3
    for template in prompts.RATING:
        assert not re.search(r"\b(so far|will|next|until|before|now)\b", template)


def test_too_long_a_history_drops_its_oldest_ratings(rated):
    short = {"inputs": 100, "targets": 8}
    dropped = 0
    for cut, full in zip(
        read("ratedshop_rating", "train", short),
        read("ratedshop_rating", "train", None),
        strict=True,
    ):
        assert cut["inputs_tokens"] <= short["inputs"]
        kept, whole = RATED.findall(cut["inputs"]), RATED.findall(full["inputs"])
        assert kept == whole[len(whole) - len(kept) :]
        assert any(fits(t, cut["inputs"]) for t in prompts.RATING)
        dropped += len(kept) < len(whole)
    assert dropped > 10


def test_no_stars_fit_one_token(rated):
    with pytest.raises(UserError, match=r"ratedshop_rating: the target '\d.*' needs"):
        next(read("ratedshop_rating", "train", {"inputs": 200, "targets": 1}))


def test_a_rating_as_it_is_written_is_on_the_scale(tmp_path):
    """Ratings are stored in 32 bits, which make of 0.2 a little more, and of 0.7 a little less."""
    events = [f"u{u},i{u * i % 7},{(0.2, 0.4, 0.7)[i % 3]}" for u in range(1, 30) for i in range(7)]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,rating", *events]))
    options = ["--interactions", str(tmp_path / "events.csv"), "--vocab_size", "400"]
    prepared("tenths", tmp_path, "table", *options)
    register_domain("tenths", str(tmp_path))
    [examples] = judged.examples("tenths_rating", {"inputs": 200, "targets": 8}, "test")
    low, high = examples.values.min(), examples.values.max()
    texts = {sample["targets"] for sample in read("tenths_rating", "test", None)}
    assert {rating_in(text, low, high) for text in texts} == {0.2, 0.4, 0.7}


def test_a_domain_registered_before_it_is_prepared_gets_its_tasks_then(tmp_path):
    register_domain("lateshop", str(tmp_path))
    early = seqio.MixtureRegistry.get("lateshop_aligned")
    assert "lateshop_rating" not in {task.name for task in early.tasks}
    events = [f"u{u},i{u * i % 7},{1 + (u + i) % 5}" for u in range(1, 30) for i in range(1, 8)]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,rating", *events]))
    options = ["--interactions", str(tmp_path / "events.csv"), "--vocab_size", "400"]
    prepared("lateshop", tmp_path, "table", *options)
    late = seqio.MixtureRegistry.get("lateshop_aligned")
    assert "lateshop_rating" in {task.name for task in late.tasks}
    assert next(read("lateshop_rating", "test", None))["targets"] in "12345"
