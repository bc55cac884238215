"""A position in the samples belongs to the input that it was saved in, and another refuses it."""

import numpy as np
import pytest
import tensorflow as tf

from recalign.samples import inputs


def batches(name="testshop_recommendation", *, pack=True, rows=4, length=256):
    lengths = {"inputs": length, "targets": 32}
    return inputs.train_batches(name, lengths, rows, seed=0, pack=pack)


def save(path, **options):
    """Saves the position after three batches; gives the fourth."""
    subject = batches(**options)
    for _ in range(3):
        next(subject)
    subject.save(path)
    return next(subject)


@pytest.fixture(scope="module")
def saved(shop, tmp_path_factory):
    """A position."""
    path = tmp_path_factory.mktemp("position") / "position"
    save(path)
    return path


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_the_same_input_goes_on(shop, tmp_path):
    expected = save(tmp_path / "position", name="testshop_aligned")
    subject = batches("testshop_aligned")
    subject.restore(tmp_path / "position")
    assert_same(next(subject), expected)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "testshop_mim"},
        {"name": "testshop_retrieval_only"},
        {"pack": False},
        {"rows": 8},
        {"length": 320},
    ],
    ids=str,
)
def test_another_input_refuses_it_and_may_start_anew(saved, changed):
    first = []
    for _ in range(2):
        subject = batches(**changed)
        with pytest.raises(Exception, match=r"Failed to restore|Incompatible shapes"):
            subject.restore(saved)
        subject.reset()
        first.append(next(subject))
    assert_same(*first)  # what it starts with follows from the seed


def test_nothing_that_was_read_is_kept_in_memory(shop, monkeypatch):
    """Every position would hold it."""
    kept = []
    monkeypatch.setattr(tf.data.Dataset, "cache", lambda dataset, *_: kept.append(1) or dataset)
    batches("testshop_retrieval")
    assert not kept
