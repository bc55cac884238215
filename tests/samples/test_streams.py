"""Batches that several processes make together are those of one, however many there are."""

import json

import numpy as np
import pytest
import seqio

from recalign.errors import UserError
from recalign.samples import inputs

LENGTHS = {"inputs": 128, "targets": 32}
ROWS = 8


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


class Together:
    """Several processes that each make some rows, as one input; `start` makes that of one."""

    def __init__(self, start, *held):
        self.held, self.inputs = held, [start(np.array(rows)) for rows in held]

    def __next__(self):
        parts = [next(batches) for batches in self.inputs]
        place = np.argsort(np.concatenate(self.held))
        return {name: np.concatenate([part[name] for part in parts])[place] for name in parts[0]}

    def save(self, path):
        for batches in self.inputs:
            batches.save(path)

    def restore(self, path):
        for batches in self.inputs:
            batches.restore(path)


class Counted:
    """A stream whose rows tell their stream and number."""

    made = 0

    def __init__(self, number, rows):
        self.number, self.rows = number, rows

    def __next__(self):
        numbers = np.arange(self.made, self.made + self.rows)
        self.made += self.rows
        return {"stream": np.full(self.rows, self.number), "number": numbers}

    def save(self, path):
        with open(path, "x") as file:  # which nobody else may write
            json.dump([self.number, self.made], file)

    def restore(self, path):
        with open(path) as file:
            number, self.made = json.load(file)
        assert number == self.number

    def reset(self):
        self.made = 0


DEALT = {
    "one": [range(8)],
    "two": [range(4), range(4, 8)],
    "two, not in a row": [[0, 1, 4, 5], [2, 3, 6, 7]],
    "four": [[0, 1], [2, 3], [4, 5], [6, 7]],
    "eight, more than streams": [[row] for row in range(8)],
    "uneven": [[0], range(1, 8)],
}


def counted(*held):
    return Together(lambda rows: inputs.Batches(Counted, 4, ROWS, rows, rows), *held)


@pytest.mark.parametrize("held", DEALT.values(), ids=DEALT)
def test_every_row_of_a_batch_is_given_by_the_process_that_holds_it(held):
    batches = counted(*held)
    for step in range(3):
        batch = next(batches)
        assert batch["stream"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert batch["number"].tolist() == [2 * step, 2 * step + 1] * 4


@pytest.mark.parametrize("held", DEALT.values(), ids=DEALT)
@pytest.mark.parametrize("other", DEALT.values(), ids=DEALT)
def test_positions_that_some_processes_saved_are_gone_on_from_by_any_other_number(
    held, other, tmp_path
):
    written = counted(*held)
    for _ in range(3):
        next(written)
    written.save(tmp_path / "position")
    assert {path.name for path in tmp_path.iterdir()} == {f"position_{n}_of_4" for n in range(4)}
    resumed = counted(*other)
    resumed.restore(tmp_path / "position")
    assert_same(next(resumed), next(written))


def test_rows_that_several_processes_take_are_saved_by_one(tmp_path):
    rows = np.arange(ROWS)
    for own in ([0, 1, 2], [3, 4, 5, 6, 7], []):
        inputs.Batches(Counted, 4, ROWS, rows, np.array(own)).save(tmp_path / "position")
    assert len(list(tmp_path.iterdir())) == 4


def test_a_process_makes_no_stream_but_those_of_its_rows():
    made = []

    def stream(number, rows):
        made.append(number)
        return Counted(number, rows)

    inputs.Batches(stream, 4, ROWS, np.array([2, 3, 6]), np.array([2, 3, 6]))
    assert made == [1, 3]


def test_a_process_that_makes_rows_for_nobody_is_told(caplog):
    for streams, told in ((1, True), (2, False), (4, False)):
        caplog.clear()
        inputs.Batches(Counted, streams, ROWS, np.arange(4), np.arange(4))
        assert ("needs 4 rows of each batch and makes 8" in caplog.text) == told


@pytest.mark.parametrize("streams", [3, 16])
def test_streams_that_do_not_divide_a_batch(streams):
    with pytest.raises(UserError, match=f"INPUT_STREAMS is {streams}, but must divide the 8 rows"):
        inputs.train_batches("testshop_retrieval", LENGTHS, ROWS, 0, streams=streams)


def test_two_processes_make_the_packed_batches_of_one_and_it_goes_on_for_them(shop, tmp_path):
    def start(held):
        name = "testshop_retrieval_only"
        return inputs.train_batches(name, LENGTHS, 4, 0, streams=2, held=held, own=held)

    one, two = Together(start, range(4)), Together(start, [0, 1], [2, 3])
    for _ in range(2):
        assert_same(next(two), next(one))
    two.save(tmp_path / "position")
    expected = next(two)
    next(one), next(one)
    one.restore(tmp_path / "position")
    assert_same(next(one), expected)


def test_one_stream_is_what_seqio_gives_and_several_are_what_it_gives_several_hosts(shop):
    def plain(seed, **options):
        dataset = seqio.get_dataset(
            "testshop_retrieval",
            inputs.mark_given(LENGTHS),
            inputs.FeatureConverter(pack=False),
            shuffle=True,
            seed=seed,
            num_epochs=None,
            **options,
        )
        [batch] = dataset.batch(4).take(1).as_numpy_iterator()
        return batch

    def ours(rows, **options):
        return next(
            inputs.train_batches("testshop_retrieval", LENGTHS, rows, 3, pack=False, **options)
        )

    assert_same(ours(4), plain(3))
    second = ours(8, streams=2, held=np.arange(4, 8))
    assert_same(second, plain(3 + (1 << 20), shard_info=seqio.ShardInfo(1, 2)))
