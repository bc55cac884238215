"""A run from tokens alone: the same numbers, without TensorFlow."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from recalign.cli import recalign
from recalign.errors import UserError
from recalign.samples import inputs
from recalign.tokens.batches import CachedBatches, decode, metadata

SMALL = [
    "--gin_file=toyshop.gin",
    "--gin.TRAIN_STEPS=4",
    "--gin.EVAL_PERIOD=2",
    "--gin.CHECKPOINT_PERIOD=2",
    "--gin.EVAL_EXAMPLES=20",
    "--gin.BATCH_SIZE=4",
    "--gin.T5Config.emb_dim=16",
    "--gin.T5Config.num_encoder_layers=1",
    "--gin.T5Config.num_decoder_layers=1",
]
WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5x", "clu"):
    sys.modules[name] = None  # importing it now raises ImportError
from recalign.cli import main
main()
"""
LENGTHS = {"inputs": 256, "targets": 32}


def run(*arguments):
    result = CliRunner().invoke(recalign, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.fixture(scope="module")
def shop():
    """The shop of the other tests: tasks are registered once a process."""
    run("prepare", "toyshop", "--users", 120, "--items", 60)


@pytest.fixture(scope="module")
def tokens(shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "tokens"
    run("cache", *SMALL, "--output", folder)
    return folder


def live(batch_size, seed=0):
    return inputs.train_batches("toyshop_aligned", LENGTHS, batch_size, seed, "recalign.tasks")


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_training_without_tensorflow_gives_the_numbers_of_the_live_run(shop, tokens, tmp_path):
    run("train", *SMALL, f"--gin.MODEL_DIR={tmp_path / 'live'}")
    command = ["train", f"--gin_file={tokens}/train.gin", f"--gin.MODEL_DIR={tmp_path / 'cached'}"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = ((tmp_path / d / "metrics.jsonl").read_text() for d in ("live", "cached"))
    assert one == other
    assert len(one.splitlines()) == 3


def test_batches_are_those_of_the_live_input(shop, tokens):
    for _, cached, expected in zip(range(4), CachedBatches(str(tokens), 4), live(4), strict=False):
        assert_same(cached, {name: np.asarray(value) for name, value in expected.items()})


def test_any_batch_size_gives_the_same_rows(tokens):
    whole, halves = CachedBatches(str(tokens), 8), CachedBatches(str(tokens), 4)
    parts = [next(halves), next(halves)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert_same(next(whole), joined)


def test_each_pass_has_every_row_once_in_an_order_of_the_seed(tokens):
    rows = metadata(str(tokens))["rows"]
    assert rows == 16

    def passes(seed):
        batches = CachedBatches(str(tokens), 4, seed)
        return [
            [tuple(row) for _ in range(rows // 4) for row in next(batches)["encoder_input_tokens"]]
            for _ in range(3)
        ]

    first, second, third = passes(0)
    assert sorted(first) == sorted(second) == sorted(third)
    assert first != second != third
    assert passes(0) == [first, second, third]
    assert passes(1)[0] == first
    assert passes(1)[1] != second


@pytest.mark.parametrize("read", [1, 3, 7])
def test_the_position_restores_also_across_passes(tokens, tmp_path, read):
    batches = CachedBatches(str(tokens), 4)
    for _ in range(read):
        next(batches)
    batches.save(tmp_path / "position")
    again = CachedBatches(str(tokens), 4)
    again.restore(tmp_path / "position")
    for _ in range(5):
        assert_same(next(again), next(batches))


def test_tokens_decode_as_the_vocabulary_does(shop, tokens):
    provider = inputs.mixture_or_task("toyshop_aligned", "recalign.tasks")
    vocabulary = provider.output_features["inputs"].vocabulary
    for row in next(CachedBatches(str(tokens), 16))["decoder_target_tokens"]:
        assert decode(row.tolist(), str(tokens)) == vocabulary.decode(row.tolist())


def test_what_is_missing_or_damaged_is_named(tokens, tmp_path):
    with pytest.raises(UserError, match=r"metadata\.json cannot be read"):
        CachedBatches(str(tmp_path), 4)
    (tmp_path / "metadata.json").write_text(json.dumps(metadata(str(tokens)) | {"rows": 99}))
    (tmp_path / "train").symlink_to(tokens / "train")
    with pytest.raises(UserError, match="16 rows where 99 were written"):
        CachedBatches(str(tmp_path), 4)


def test_a_folder_that_is_there_is_not_overwritten(shop, tokens):
    with pytest.raises(UserError, match="is there already"):
        run("cache", *SMALL, "--output", tokens)
