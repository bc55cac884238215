"""Batches of a folder that is written by hand, against what they must hold, number by number."""

import json

import numpy as np
import pytest

from recalign.errors import UserError
from recalign.tokens.batches import CachedBatches, metadata, with_derived
from recalign.tokens.data import TokenData

ROWS, LENGTH = 7, 6


def derive(targets, segments):
    """A row's inputs of the decoder and positions, token by token."""
    inputs, positions = [], []
    for place, segment in enumerate(segments):
        begins = place == 0 or segments[place - 1] != segment
        inputs.append(0 if begins else targets[place - 1])
        positions.append(0 if begins or not segment else positions[-1] + 1)
    return inputs, positions


def test_each_segment_begins_anew():
    rng = np.random.default_rng(0)
    lengths = [[3, 3], [1, 4], [6], [2, 1, 1], []]
    segments = np.zeros((len(lengths), LENGTH), np.uint16)
    for row, parts in zip(segments, lengths, strict=True):
        row[: sum(parts)] = np.repeat(np.arange(len(parts)) + 1, parts)
    targets = np.where(segments, rng.integers(1, 30, segments.shape), 0)
    other = np.maximum(segments[::-1], 0)
    batch = with_derived(
        {
            "encoder_input_tokens": targets[::-1],
            "decoder_target_tokens": targets,
            "encoder_segment_ids": other,
            "decoder_segment_ids": segments,
        }
    )
    inputs, positions = zip(*map(derive, targets.tolist(), segments.tolist()), strict=True)
    np.testing.assert_array_equal(batch["decoder_input_tokens"], inputs)
    np.testing.assert_array_equal(batch["decoder_positions"], positions)
    np.testing.assert_array_equal(batch["encoder_positions"], positions[::-1])
    np.testing.assert_array_equal(batch["decoder_loss_weights"], targets > 0)
    assert {str(values.dtype) for values in batch.values()} == {"int32"}


def test_without_segments_targets_are_shifted_and_given_weights_kept():
    targets, weights = np.array([[4, 1, 0], [9, 5, 1]]), np.array([[0, 1, 0], [1, 0, 1]])
    stored = {"encoder_input_tokens": targets, "decoder_target_tokens": targets}
    batch = with_derived(stored | {"decoder_loss_weights": weights})
    assert batch.keys() == {*stored, "decoder_loss_weights", "decoder_input_tokens"}
    np.testing.assert_array_equal(batch["decoder_input_tokens"], [[0, 4, 1], [0, 9, 5]])
    np.testing.assert_array_equal(batch["decoder_loss_weights"], weights)


@pytest.fixture
def folder(tmp_path):
    """Seven rows without segments, of which each holds its number."""
    (tmp_path / "train").mkdir()
    for name in ("encoder_input_tokens", "decoder_target_tokens"):
        np.save(tmp_path / f"train/{name}.npy", np.full((ROWS, 2), np.arange(ROWS)[:, None] + 1))
    (tmp_path / "metadata.json").write_text(json.dumps({"rows": ROWS}))
    return tmp_path


def numbers(batch):
    return (batch["encoder_input_tokens"][:, 0] - 1).tolist()


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_rows_follow_each_other_over_the_ends_of_passes(folder, size):
    """Also where a batch holds several passes."""
    batches = CachedBatches(str(folder), size, seed=5)
    found = [row for _ in range(-(-3 * ROWS // size)) for row in numbers(next(batches))]
    assert found[:ROWS] == list(range(ROWS))
    for number in (1, 2):
        order = np.random.default_rng([5, number]).permutation(ROWS).tolist()
        assert found[number * ROWS : (number + 1) * ROWS] == order


def test_a_position_is_that_of_the_first_row_and_may_be_reset(folder, tmp_path):
    batches = CachedBatches(str(folder), 4)
    first = numbers(next(batches))
    batches.save(tmp_path / "position")
    assert json.loads((tmp_path / "position").read_text()) == {"rows_read": 4}
    second = numbers(next(batches))
    batches.reset()
    assert [numbers(next(batches)), numbers(next(batches))] == [first, second]
    batches.restore(tmp_path / "position")
    assert numbers(next(batches)) == second


@pytest.mark.parametrize(
    ("own", "writes"), [(None, True), ([0], True), ([0, 3], True), ([1], False)]
)
def test_who_answers_for_the_first_row_writes_the_position(folder, tmp_path, own, writes):
    own = None if own is None else np.array(own)
    batches = CachedBatches(str(folder), 4, own=own)
    batches.save(tmp_path / "position")
    assert (tmp_path / "position").exists() == writes


def test_a_missing_or_short_feature_is_named_and_so_is_a_bucket(folder):
    np.save(folder / "train/decoder_loss_weights.npy", np.ones((ROWS - 1, 2)))
    with pytest.raises(UserError, match=r"weights.npy has 6 rows where 7 were written"):
        CachedBatches(str(folder), 4)
    (folder / "train/decoder_target_tokens.npy").unlink()
    with pytest.raises(UserError, match=r"is damaged .*decoder_target_tokens"):
        CachedBatches(str(folder), 4)
    with pytest.raises(UserError, match="must be a local folder"):
        metadata("gs://bucket/tokens")


def test_a_run_reads_its_rows_in_the_order_of_its_seed(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))  # the folder of tokens, which no shell writes out
    held = np.array([1, 2])
    batches = TokenData("~", 3, seed=5).train_batches(held, own=held)
    expected = CachedBatches(str(folder), 3, 5, held)
    assert [numbers(next(batches)) for _ in range(5)] == [numbers(next(expected)) for _ in range(5)]
    batches.save(tmp_path / "position")
    assert not (tmp_path / "position").exists()


def test_items_of_a_folder_of_an_earlier_version_are_found(folder):
    (folder / "examples" / "test").mkdir(parents=True)
    tokens = np.array([[3, 1], [4, 1]], np.int32)
    np.savez(folder / "examples/test/shop_retrieval.npz", catalogue=tokens)
    np.testing.assert_array_equal(TokenData(str(folder), 4).item_tokens("shop_retrieval"), tokens)
