"""The saved index: built once, then mapped; never trusted if it is not what it should be."""

import json
import logging
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import jax
import numpy as np
import pytest

from recalign.engine.search import saved_trie
from recalign.engine.search.saved_trie import fingerprint, index_of
from recalign.engine.search.trie import CatalogueIndex
from recalign.errors import UserError

ROWS = np.array([[4, 5, 1, 0], [4, 1, 0, 0], [9, 9, 9, 1], [3, 4, 1, 0]], np.int32)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture
def never_built(monkeypatch):
    def build(*_):
        raise AssertionError("it is there already")

    return lambda: monkeypatch.setattr(CatalogueIndex, "build", build)


def kept(folder):
    """The one index in a folder that holds nothing else."""
    [path] = folder.iterdir()
    assert path.name == f"index-{fingerprint(ROWS)}"
    return path


def test_the_second_time_it_is_mapped_and_not_built(tmp_path, never_built):
    built = index_of(ROWS, tmp_path)
    assert not isinstance(built.code, np.memmap)
    kept(tmp_path)
    never_built()
    loaded = index_of(ROWS, tmp_path)
    assert all(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(loaded))
    assert_same(loaded, built)
    assert_same(loaded, index_of([row[row > 0] for row in ROWS], tmp_path))


@pytest.mark.parametrize("other", [ROWS[::-1], ROWS[:3], ROWS + (ROWS == 9)])
def test_another_catalogue_has_another_index(tmp_path, other):
    index_of(ROWS, tmp_path)
    assert_same(index_of(other, tmp_path), CatalogueIndex.build(other))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("alike", [ROWS.astype(np.int64), np.asfortranarray(ROWS)])
def test_the_same_catalogue_has_the_same_index_however_it_lies_in_memory(alike):
    assert fingerprint(alike) == fingerprint(ROWS)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def relabel(path):
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"source": "0" * 16}))


def resize(path):
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"branching": [1, 1, 1]}))


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("code.npy", flip, "checksum"),
        ("item_of_rank.npy", flip, "checksum"),
        ("terminal.npy", lambda path: path.write_bytes(path.read_bytes()[:-1]), ""),
        ("alphabet.npy", lambda path: path.write_bytes(b""), ""),
        ("alphabet.npy", lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x04\x00({'a"), ""),
        ("first_rank.npy", lambda path: path.unlink(), "first_rank"),
        ("index.json", lambda path: path.unlink(), "index.json"),
        ("index.json", lambda path: path.write_text("[]"), ""),
        ("index.json", lambda path: path.write_text("{"), ""),
        ("index.json", resize, "checksum"),
        ("index.json", relabel, "index of 0000"),
    ],
)
def test_what_is_damaged_or_foreign_is_told_and_built_again(tmp_path, caplog, name, damage, told):
    right = index_of(ROWS, tmp_path)
    damage(kept(tmp_path) / name)
    assert_same(index_of(ROWS, tmp_path), right)
    [record] = caplog.records
    assert "is damaged and built again" in record.getMessage()
    assert told in record.getMessage()
    assert_same(saved_trie.load(kept(tmp_path), fingerprint(ROWS)), right)


def test_the_index_of_another_catalogue_under_this_name_is_noticed(tmp_path, caplog):
    index_of(ROWS[:3], tmp_path)
    [other] = tmp_path.iterdir()
    other.rename(tmp_path / f"index-{fingerprint(ROWS)}")
    assert_same(index_of(ROWS, tmp_path), CatalogueIndex.build(ROWS))
    assert "it is the index of" in caplog.text


@pytest.mark.parametrize("place", ["/proc", "absent", None, "gs://bucket/shop"])
def test_where_nothing_can_be_kept_the_index_is_only_built(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    assert_same(index_of(ROWS, place), CatalogueIndex.build(ROWS))
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    save = np.save

    def full(path, values):
        if "terminal" in str(path):
            raise OSError(28, "No space left on device")
        save(path, values)

    monkeypatch.setattr(np, "save", full)
    assert_same(index_of(ROWS, tmp_path), CatalogueIndex.build(ROWS))
    assert not list(tmp_path.iterdir())
    assert "No space left" in caplog.text


def ask_often(folder):
    """What a process does that meets others, one of which takes the index away now and then."""
    right = CatalogueIndex.build(ROWS)
    for turn in range(60):
        assert_same(index_of(ROWS, folder), right)
        if turn % 7 == 0:
            shutil.rmtree(folder / f"index-{fingerprint(ROWS)}", ignore_errors=True)
    return True


def test_processes_that_build_at_once_do_not_hurt_each_other(tmp_path):
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        assert all(pool.map(ask_often, [tmp_path] * 4))
    index_of(ROWS, tmp_path)
    saved_trie.load(kept(tmp_path), fingerprint(ROWS))


@pytest.mark.parametrize("again", [False, True])
def test_a_catalogue_that_does_not_fit_is_refused_also_if_its_index_is_there(tmp_path, again):
    if again:
        index_of(ROWS, tmp_path)
    with pytest.raises(UserError, match=r"item 2 .*between 2 and 8"):
        index_of(ROWS, tmp_path, num_vocab=8)
    assert len(list(tmp_path.iterdir())) == again
    with pytest.raises(UserError, match=r"item 2 .*between 2 and 8"):
        index_of(ROWS, None, num_vocab=8)
