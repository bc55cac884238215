"""What is kept of an evaluation beside its metrics."""

import json

import numpy as np
import pandas as pd
import pytest

from recalign.domains import Domain
from recalign.engine.search.beam_search import Ranked
from recalign.evaluation.examples import RetrievalExamples, select
from recalign.runs import details

ITEMS = 30


class Sure:
    """Ranks what follows the history's last item: with probability a half, a quarter and so on."""

    def rank(self, params, inputs, offsets, events, given=()):
        last = events[offsets[1:] - 1]
        items = (last[:, None] + 1 + np.arange(12)) % ITEMS
        scores = np.log(0.5) * np.broadcast_to(1 + np.arange(12), items.shape)
        ranked = Ranked(items.astype(np.int32), scores.astype(np.float32))
        return None, ranked


def examples(targets):
    count = len(targets)
    table = pd.DataFrame({"key": [f"k{i}" for i in range(ITEMS)], "title": "A toy"})
    domain = Domain("shop", table, np.zeros(1, np.int64), np.zeros(0, np.int32))
    histories = [np.array([5, row % ITEMS], np.int32) for row in range(count)]
    return RetrievalExamples(
        task="shop_retrieval",
        split="test",
        domain=domain,
        inputs=[np.arange(1 + row % 7) for row in range(count)],
        offsets=np.arange(count + 1) * 2,
        events=np.concatenate(histories),
        targets=np.asarray(targets, np.int32),
    )


def answer(asked, seed=0):
    item_tokens = np.arange(2 * ITEMS).reshape(ITEMS, 2)
    return details.answer(Sure(), None, asked, item_tokens, lambda t: f"{len(t)} tokens", seed)


def test_hits_and_misses_are_shown_in_equal_number():
    targets = [(row + (2 if row % 3 else 20)) % ITEMS for row in range(300)]
    found = answer(examples(targets))
    ranks = [each["rank"] for each in found["shown"]]
    assert ranks == [2] * 6 + [None] * 6
    assert (found["asked"], found["hits"]) == (256, sum(1 for r in drawn(300) if r % 3))
    assert found["tokens"]["longest"] == 7
    shown = found["shown"][0]
    last = int(shown["history"][-1]["id"][1:])
    assert shown["history"][0] == {"id": "k5", "title": "A toy"}
    assert shown["target"]["id"] == f"k{(last + 2) % ITEMS}"
    assert shown["question"].endswith(" tokens")
    assert shown["answer"] == "2 tokens"
    assert [item["id"] for item in shown["items"][:2]] == [
        f"k{(last + 1) % ITEMS}",
        f"k{(last + 2) % ITEMS}",
    ]
    assert shown["items"][1]["probability"] == pytest.approx(0.25)
    assert answer(examples(targets)) == found
    assert answer(examples(targets), seed=1)["shown"] != found["shown"]


def drawn(count):
    return np.random.default_rng(0).permutation(count)[: details.ASKED]


def test_probabilities_are_counted_against_what_was_right():
    """The second answer, of a quarter, is the right one of every other example."""
    found = answer(examples([(row + (2 if row % 2 else 20)) % ITEMS for row in range(200)]))
    bins = {round(each["predicted"], 3): each for each in found["calibration"]}
    assert sum(each["count"] for each in bins.values()) == 200 * details.DEPTH
    assert (bins[0.5]["count"], bins[0.5]["observed"]) == (200, 0.0)
    [of_quarter_and_eighth] = [each for p, each in bins.items() if 0.1 < p < 0.3]
    assert of_quarter_and_eighth["predicted"] == pytest.approx((0.25 + 0.125) / 2)
    assert of_quarter_and_eighth["count"] == 400
    assert of_quarter_and_eighth["observed"] == 100 / 400


@pytest.mark.parametrize(("distance", "rank"), [(1, 1), (20, None)])
def test_where_there_are_only_hits_or_only_misses(distance, rank):
    found = answer(examples([(row + distance) % ITEMS for row in range(40)]))
    assert [each["rank"] for each in found["shown"]] == [rank] * 6


def test_few_examples_are_enough():
    assert len(answer(examples([1]))["shown"]) == 1


def test_some_examples_are_those_rows():
    every = examples(range(20))
    some = select(every, np.array([7, 3]))
    assert some.targets.tolist() == [7, 3]
    assert some.offsets.tolist() == [0, 2, 4]
    assert some.events.tolist() == [5, 7, 5, 3]
    assert [len(tokens) for tokens in some.inputs] == [1, 4]
    assert some.given == ()


def test_what_is_no_number_is_null(tmp_path):
    details.write(tmp_path, 3, "test", {"a": {"recalign": {"full/hr@1": float("nan")}}}, {})
    content = json.loads((tmp_path / "details-test.json").read_text())
    assert content["tables"] == {"a": {"recalign": {"full/hr@1": None}}}
