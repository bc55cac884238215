"""Tasks cached by `seqio_cache_tasks`: the same examples, in another order."""

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf

from recalign.errors import UserError
from recalign.samples import inputs

LENGTHS = {"inputs": 128, "targets": 32}
KINDS = ("retrieval", "ranking", "mim", "mlm", "bpr")


@pytest.fixture(scope="module")
def cache(shop, tmp_path_factory):
    """The folder that the documented command wrote the tasks of the shop to."""
    if importlib.util.find_spec("apache_beam") is None:
        pytest.skip("apache_beam is not installed (pip install 'recalign[cache]')")
    folder = tmp_path_factory.mktemp("cache")
    command = [
        str(Path(sys.executable).with_name("seqio_cache_tasks")),
        f"--tasks={','.join(f'testshop_{kind}' for kind in KINDS)}",
        f"--output_cache_dir={folder}",
        "--module_import=recalign.tasks",
        "--min_shards=3",
    ]
    environment = os.environ | {"RECALIGN_DATA_DIR": str(shop.path.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


# Before a cache is made: SeqIO never forgets where it found a task.
@pytest.mark.usefixtures("shop")
def test_a_task_that_is_not_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError) as error:
        inputs.train_batches(
            "testshop_retrieval_only", LENGTHS, 4, 0, use_cached=True, cache_dirs=["~/cache"]
        )
    for word in ("testshop_retrieval", str(tmp_path / "cache"), "seqio_cache_tasks"):
        assert word in str(error.value)


@pytest.mark.usefixtures("shop")
def test_the_command_that_caches_is_told_the_module_of_the_tasks(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tasks_of_ours.py").write_text("")
    with pytest.raises(UserError, match="seqio_cache_tasks --module_import=tasks_of_ours --tasks"):
        inputs.train_batches("testshop_mim", LENGTHS, 4, 0, "tasks_of_ours", use_cached=True)


@pytest.fixture
def known_cache(cache):
    before = list(seqio.get_global_cache_dirs())
    seqio.add_global_cache_dirs([str(cache)])
    yield
    seqio.set_global_cache_dirs(before)


def examples(task, split, cached):
    """The examples at the point where they are cached, in a canonical order."""
    source = task._get_cached_source(split) if cached else task.source
    dataset = source.get_dataset(split, shuffle=False)
    found = list((dataset if cached else task.preprocess_precache(dataset)).as_numpy_iterator())

    def in_order(example):
        return [np.atleast_1d(value).tolist() for _, value in sorted(example.items())]

    return sorted(found, key=in_order)


def samples(task, found):
    """What the task makes of examples in this order."""
    types = {k: tf.TensorSpec([None] * np.ndim(v), v.dtype) for k, v in found[0].items()}
    dataset = tf.data.Dataset.from_generator(lambda: found, output_signature=types)
    return list(task.preprocess_postcache(dataset, LENGTHS, seed=3).as_numpy_iterator())


def assert_same(one, two):
    for first, second in zip(one, two, strict=True):
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert np.asarray(value).dtype == np.asarray(second[name]).dtype
            np.testing.assert_array_equal(value, second[name])


@pytest.mark.usefixtures("known_cache")
@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_holds_the_same_examples_and_they_give_the_same_samples(kind):
    task = seqio.TaskRegistry.get(f"testshop_{kind}")
    for split in ("train", "validation", "test"):
        live, cached = (examples(task, split, from_cache) for from_cache in (False, True))
        assert len(live) > 100
        assert_same(live, cached)
        if split == "train":
            assert_same(samples(task, live), samples(task, cached))


@pytest.mark.usefixtures("known_cache")
def test_what_is_given_is_known_of_cached_tasks_and_seqios_converter_takes_them():
    gin.bind_parameter("retrieval.retrieval.answer_prefix", 1)
    name, options = "testshop_retrieval_only", {"use_cached": True}
    [ours] = itertools.islice(inputs.train_batches(name, LENGTHS, 4, 0, **options), 1)
    converter = seqio.EncDecFeatureConverter(pack=True)
    plain = seqio.get_dataset(name, LENGTHS, converter, shuffle=True, seed=0, **options)
    [plain] = plain.batch(4).take(1).as_numpy_iterator()
    # One piece is given, one is to be found, and EOS follows. How many examples fit into a row, and
    # so where padding begins, hangs on the order that the cache happens to have.
    for found, given in ((ours, 0), (plain, 1)):
        tokens, segments = found["decoder_target_tokens"], found["decoder_segment_ids"]
        weights, places = found["decoder_loss_weights"], found["decoder_positions"]
        answers = np.array([given, 1, 1])[places] * (segments > 0)
        np.testing.assert_array_equal(weights, answers)
        assert (tokens[(segments > 0) & (places == 2)] == 1).all()
        assert (segments.max(axis=1) >= 1).all()


def batches(count=8, seed=0, **options):
    found = inputs.train_batches("testshop_aligned", LENGTHS, 4, seed, **options)
    return list(itertools.islice(found, count))


def equal(one, two):
    return all(
        np.array_equal(a[name], b[name]) for a, b in zip(one, two, strict=True) for name in a
    )


def test_batches_from_a_cache_are_a_function_of_the_seed_and_come_in_another_order(cache):
    cached = {"use_cached": True, "cache_dirs": [str(cache)]}
    one = batches(**cached)
    assert equal(one, batches(**cached))
    assert not equal(one, batches(seed=1, **cached))
    live = batches()
    assert not equal(one, live)
    for a, b in zip(one, live, strict=True):
        assert {k: (v.shape, v.dtype) for k, v in a.items()} == {
            k: (v.shape, v.dtype) for k, v in b.items()
        }


def test_the_place_in_a_cache_can_be_saved_and_restored(cache, tmp_path):
    cached = {"use_cached": True, "cache_dirs": [str(cache)]}
    iterator = inputs.train_batches("testshop_aligned", LENGTHS, 4, 0, **cached)
    for _ in range(3):
        next(iterator)
    iterator.save(tmp_path / "place")
    expected = [next(iterator) for _ in range(4)]
    again = inputs.train_batches("testshop_aligned", LENGTHS, 4, 0, **cached)
    again.restore(tmp_path / "place")
    assert equal(expected, [next(again) for _ in range(4)])
