"""Examples that several processes make together are those of one."""

import dataclasses
import functools
import io

import numpy as np
import pytest

from recalign.evaluation import examples as stored
from recalign.evaluation.examples import RankingExamples, RatingExamples, Share, first, select
from tests.evaluation.shops import domain, retrieval

SHOP = domain(users=9, rated=True)


def retrieved(given=True):
    made = retrieval(SHOP, "test")
    questions = [np.arange(1, 2 + e % 4, dtype=np.int32) for e in range(len(made))]
    begins = [np.full(e % 3, e, np.int32) for e in range(len(made))]
    return dataclasses.replace(made, inputs=questions, given=begins if given else ())


def ranked():
    made = retrieved()
    fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    lists = np.arange(len(made) * 3, dtype=np.int32).reshape(-1, 3)
    return RankingExamples(**fields, candidates=lists)


def rated():
    return RatingExamples(
        task="shop_rating",
        split="test",
        domain=SHOP,
        inputs=[np.arange(1, 2 + e, dtype=np.int32) for e in range(7)],
        users=np.arange(7, dtype=np.int32),
        items=np.arange(7, dtype=np.int32)[::-1],
        ratings=np.linspace(1, 5, 7, dtype=np.float32),
        values=np.array([1.0, 5.0]),
        stars=[np.array([4, 1], np.int32), np.array([5, 1], np.int32)],
    )


KINDS = {
    "retrieval": retrieved,
    "nothing given": functools.partial(retrieved, given=False),
    "ranking": ranked,
    "rating": rated,
}


def assert_same(found, expected):
    assert type(found) is type(expected)
    for field in dataclasses.fields(expected):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, np.ndarray):
            np.testing.assert_array_equal(one, other, err_msg=field.name)
            assert one.dtype == other.dtype, field.name
        elif isinstance(other, list):
            assert [row.tolist() for row in one] == [row.tolist() for row in other], field.name
        elif field.name != "given" or other:
            assert one == other


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("count", [1, 2, 4, 20])
def test_every_process_gets_the_whole_of_what_all_have_made(make, count):
    whole = make()
    parts = [select(whole, np.arange(index, len(whole), count)) for index in range(count)]
    files = [io.BytesIO() for _ in parts]
    for part, file in zip(parts, files, strict=True):
        stored.save(part, file)
    for index, part in enumerate(parts):
        told = []

        def exchange(made, told=told):
            told.append(made)
            return [file.getvalue() for file in files]

        assert_same(Share(index, count, exchange).complete(part), whole)
        if count > 1:
            assert_same(stored.load(io.BytesIO(told[0]), lambda _: SHOP), part)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_rows_are_taken_in_the_order_that_is_asked_for(make):
    whole = make()
    rows = np.random.default_rng(0).permutation(len(whole))
    assert_same(select(select(whole, rows), np.argsort(rows)), whole)
    assert_same(first(whole, 3), select(whole, np.arange(3)))
    assert len(first(whole, 3)) == 3
    assert first(whole, len(whole)) is whole
    two = select(whole, np.array([5, 2]))
    np.testing.assert_array_equal(two.inputs[1], whole.inputs[2])
    if make is not rated:
        history = whole.events[whole.offsets[2] : whole.offsets[3]]
        np.testing.assert_array_equal(two.events[two.offsets[1] :], history)
        assert two.targets.tolist() == whole.targets[[5, 2]].tolist()
