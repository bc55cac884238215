"""Evaluation examples that several processes write together are those that one writes."""

import io
import itertools

import pytest

from recalign.evaluation import examples as stored
from recalign.evaluation.examples import Share
from recalign.samples import judged
from tests.evaluation.test_examples import assert_same

LENGTHS = {"inputs": 128, "targets": 32}


def written_by(count, name, domain, number):
    """The shares that so many processes write, and what they have together."""
    made = []

    def tell(part):
        made.append(part)
        return [part]  # as if there were nobody else

    def ask(share):
        [found] = judged.examples(name, LENGTHS, "test", num_examples=number, share=share)
        return found

    for index in range(count):
        ask(Share(index, count, tell))
    parts = [stored.load(io.BytesIO(part), lambda _: domain) for part in made]
    return parts, ask(Share(0, count, lambda _: made))


@pytest.mark.parametrize(
    ("kind", "number", "count"), [("retrieval", None, 2), ("ranking", 3, 4), ("rating", 15, 2)]
)
def test_each_writes_its_share_and_all_get_the_whole(request, kind, number, count):
    shop = request.getfixturevalue("rated" if kind == "rating" else "shop")
    name = f"{shop.name}_{kind}"
    [alone] = judged.examples(name, LENGTHS, "test", num_examples=number)
    parts, whole = written_by(count, name, shop, number)
    assert_same(whole, alone)
    sizes = [len(part) for part in parts]
    assert sum(sizes) == len(alone)
    assert max(sizes) - min(sizes) <= 1
    for one, other in itertools.combinations(parts, 2):  # nothing is written twice
        assert not {*map(bytes, one.inputs)} & {*map(bytes, other.inputs)}
