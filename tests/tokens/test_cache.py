"""A run from tokens alone: the same numbers, without TensorFlow."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import sentencepiece

from recalign.domains import vocabulary
from recalign.domains.readers import toyshop
from recalign.errors import UserError
from recalign.runs import configuration
from recalign.runs.run import make
from recalign.samples import inputs
from recalign.samples.registry import register_domain
from recalign.tokens.batches import CachedBatches, decode, metadata
from recalign.tokens.data import TokenData
from tests.commands import SMALL_NETWORK, run

SMALL = [
    "--gin_file=toyshop.gin",
    "--gin.TRAIN_STEPS=4",
    "--gin.EVAL_PERIOD=2",
    "--gin.CHECKPOINT_PERIOD=2",
    "--gin.EVAL_EXAMPLES=20",
    *SMALL_NETWORK,
]
WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5x", "clu"):
    sys.modules[name] = None  # importing it now raises ImportError
from recalign.cli import main
main()
"""
MADE_BY = {
    "CACHE_DIRS",
    "INPUT_STREAMS",
    "MIXTURE_OR_TASK_MODULE",
    "MIXTURE_OR_TASK_NAME",
    "PACK",
    "TASK_FEATURE_LENGTHS",
    "USE_CACHED_TASKS",
}


@pytest.fixture(scope="module")
def shop():
    """The shop of the other tests: tasks are registered once a process."""
    run("prepare", "toyshop", "--users", 120, "--items", 60)
    register_domain("toyshop")


@pytest.fixture(scope="module")
def tokens(shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "tokens"
    run("cache", *SMALL, "--output", folder)
    return folder


def test_what_to_train_with_is_told_as_a_shell_takes_it(shop, tmp_path):
    printed = run("cache", *SMALL, "--output", tmp_path / "to kens")
    words = shlex.split(printed.splitlines()[-1].partition("train with: ")[2])
    assert words[2] == f"--gin_file={tmp_path}/to kens/train.gin"


def source():
    """What the folder was written from."""
    options = ["MODEL_DIR=none", *(s.removeprefix("--gin.") for s in SMALL[1:])]
    configuration.parse(["toyshop.gin"], options)
    return make().data


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_a_cache_of_no_step_is_none(tmp_path):
    with pytest.raises(UserError, match="TRAIN_STEPS is 0, but a cache holds"):
        run("cache", *SMALL, "--gin.TRAIN_STEPS=0", "--output", tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_training_without_tensorflow_gives_the_numbers_of_the_live_run(shop, tokens, tmp_path):
    run("train", *SMALL, f"--gin.MODEL_DIR={tmp_path / 'live'}")
    moved = shutil.copytree(tokens, tmp_path / "elsewhere")  # as it would be to another machine
    command = ["train", f"--gin_file={moved}/train.gin", f"--gin.MODEL_DIR={tmp_path / 'cached'}"]
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
    live = run("eval", "--model_dir", tmp_path / "live", "--beam_recall", 5)
    assert run("eval", "--model_dir", tmp_path / "cached", "--beam_recall", 5) == live
    # The weights are chosen by what there is of validation, be it less than is asked for.
    mixed = run("eval", "--model_dir", tmp_path / "cached", "--with", "popularity")
    assert re.search(r"recalign \+ [\d.]+ popularity", mixed)
    with pytest.raises(UserError, match=f"{moved} holds the questions about its examples"):
        run("recommend", "--model_dir", tmp_path / "cached", "--user", "user-0017")
    # The run goes on with the folder as it lies elsewhere again.
    again = shutil.move(moved, tmp_path / "again")
    options = [f"--gin.MODEL_DIR={tmp_path / 'cached'}", "--gin.TRAIN_STEPS=5"]
    run("train", f"--gin_file={again}/train.gin", *options)
    config = (tmp_path / "cached" / "config.gin").read_text()
    assert f"TOKENS_DIR = '{again}'" in config


def test_nothing_of_a_folder_says_where_it_was_written(tokens):
    for path in tokens.rglob("*"):
        assert path.is_dir() or str(tokens.parent).encode() not in path.read_bytes()


def test_the_recipe_of_a_folder_has_nothing_of_the_text_plane(tokens):
    recipe = (tokens / "train.gin").read_text()
    found = configuration.bindings(recipe)
    assert "samples" not in recipe
    assert "MIXTURE_OR_TASK_NAME" not in found
    assert found["BATCH_SIZE"] == 4
    assert repr(found["recalign.runs.run.Run.data"]) == "@recalign.tokens.data.TokenData()"


def test_what_a_recipe_lets_one_set_can_be_set_in_a_folder_too(shop, tokens, tmp_path):
    """But for what the tokens were made by."""
    made = ["MODEL_DIR=none", *(s.removeprefix("--gin.") for s in SMALL[1:])]
    configuration.parse(["toyshop.gin"], made)
    live = configuration.current()
    for name, value in live.items():
        if "." in name or name in MADE_BY:
            continue
        setting = {"MODEL_DIR": str(tmp_path), "EVAL_EXAMPLES": 8}.get(name, value)
        configuration.parse([f"{tokens}/train.gin"], ["MODEL_DIR=none", f"{name}={setting}"])
    configuration.parse([f"{tokens}/train.gin"], ["MODEL_DIR=none", "EVAL_EXAMPLES=8"])
    made = make()
    found = made.data.examples("validation", made.eval_examples)
    assert [len(examples) for examples in found] == [8, 8]


def test_validation_has_as_many_examples_as_were_written_and_no_more(tokens):
    data = TokenData(str(tokens), 4)
    whole = data.examples("test")
    assert [len(examples) for examples in data.examples("validation")] == [20, 20]
    for some, every in zip(data.examples("test", 3), whole, strict=True):
        assert len(some) == 3 < len(every)
        np.testing.assert_array_equal(some.events, every.events[: every.offsets[3]])
        np.testing.assert_array_equal(some.offsets, every.offsets[:4])
        np.testing.assert_array_equal(some.targets, every.targets[:3])
    assert len(data.examples("validation", 7)[0]) == 7
    assert len(data.examples("validation", 21)[0]) == 20  # whoever asks for more
    [alone] = data.examples("test", 3, "toyshop_ranking")
    assert (alone.task, len(alone)) == ("toyshop_ranking", 3)
    assert alone.domain.path == tokens / "domains" / "toyshop"
    with pytest.raises(UserError, match="no task 'toyshop_mim' that can be judged"):
        data.examples("test", task="toyshop_mim")


def test_a_folder_of_tokens_is_the_same_data_as_its_source(shop, tokens):
    """The interface, method by method."""
    live, cached = source(), TokenData(str(tokens), 4)
    assert live.batch_shapes() == cached.batch_shapes()
    assert live.vocabulary() == cached.vocabulary()
    assert live.vocabulary_size() == cached.vocabulary_size()
    assert live.provenance() == cached.provenance()
    for ours, theirs in zip(live.examples("test"), cached.examples("test"), strict=True):
        assert ours.task == theirs.task
        for one, other in zip(ours.inputs, theirs.inputs, strict=True):
            np.testing.assert_array_equal(one, other)
        for name in ("offsets", "events", "targets"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        np.testing.assert_array_equal(live.item_tokens(ours.task), cached.item_tokens(ours.task))
        tokens_of_one = ours.inputs[0].tolist()
        assert live.decode(tokens_of_one) == cached.decode(tokens_of_one)


def test_batches_are_those_of_the_live_input(shop, tokens):
    batches = CachedBatches(str(tokens), 4), source().train_batches()
    for _, cached, expected in zip(range(4), *batches, strict=False):
        assert_same(cached, {name: np.asarray(value) for name, value in expected.items()})


def test_any_batch_size_gives_the_same_rows(tokens):
    whole, halves = CachedBatches(str(tokens), 8), CachedBatches(str(tokens), 4)
    parts = [next(halves), next(halves)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert_same(next(whole), joined)


def test_processes_read_their_rows_alone_and_one_writes_the_position_of_all(tokens, tmp_path):
    """Also where a batch runs over the end of a pass."""
    held = [np.array([0, 1, 4]), np.array([2, 3, 5])]
    parts = [CachedBatches(str(tokens), 6, 0, rows, rows) for rows in held]
    whole, place = CachedBatches(str(tokens), 6), np.argsort(np.concatenate(held))
    for _ in range(6):
        made = [next(part) for part in parts]
        joined = {name: np.concatenate([m[name] for m in made])[place] for name in made[0]}
        assert_same(joined, next(whole))
    parts[1].save(tmp_path / "position")
    assert not (tmp_path / "position").exists()
    parts[0].save(tmp_path / "position")
    again = CachedBatches(str(tokens), 6)
    again.restore(tmp_path / "position")
    assert_same(next(again), next(whole))


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
    live = provider.output_features["inputs"].vocabulary
    for row in next(CachedBatches(str(tokens), 16))["decoder_target_tokens"]:
        assert decode(row.tolist(), str(tokens)) == live.decode(row.tolist())


def test_a_folder_that_is_written_again_is_decoded_by_its_vocabulary_of_now(tmp_path):
    items = toyshop.generate(users=30, items=30).items
    for size in (340, 400):
        vocabulary.train(items, [], size, tmp_path)
        model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
        text = "what was bought before"
        assert decode(model.encode(text), str(tmp_path)) == text


def test_what_is_missing_or_damaged_is_named(tokens, tmp_path):
    with pytest.raises(UserError, match=r"metadata\.json cannot be read"):
        CachedBatches(str(tmp_path), 4)
    (tmp_path / "metadata.json").write_text(json.dumps(metadata(str(tokens)) | {"rows": 99}))
    (tmp_path / "train").symlink_to(tokens / "train")
    with pytest.raises(UserError, match="16 rows where 99 were written"):
        CachedBatches(str(tmp_path), 4)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train/encoder_input_tokens.npy", b"cut"),
        ("train/decoder_target_tokens.npy", None),
        ("examples/test/toyshop_retrieval.npz", None),
        ("examples/validation/toyshop_ranking.npz", b"none"),
        ("items/toyshop_retrieval.npy", b""),
        ("domains/toyshop/items.parquet", b"PAR1"),
        ("metadata.json", b"[1]"),
        ("spiece.model", b"x"),
        ("manifest.json", b"[]"),
    ],
)
def test_damage_is_told_before_anything_is_read(tokens, tmp_path, name, content):
    folder = shutil.copytree(tokens, tmp_path / "tokens")
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    again = f"TOKENS_DIR is {folder}, but {re.escape(name)}.*: write the folder with `recalign cach"
    examples = partial(TokenData.examples, split="test")
    for read in (TokenData.provenance, TokenData.train_batches, examples):
        with pytest.raises(UserError, match=again):
            read(TokenData(str(folder), 4))


def test_a_changed_byte_is_noticed_and_another_recipe_is_none(tokens, tmp_path):
    folder = shutil.copytree(tokens, tmp_path / "tokens")
    (folder / "train.gin").write_text("# of one's own\n")
    assert TokenData(str(folder), 4).provenance()
    path = folder / "domains" / "toyshop" / "candidates_test.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(folder / "manifest.json", ns=(1, 1))  # as of another folder: looked at once a process
    with pytest.raises(UserError, match=r"candidates_test\.npy is not what was written"):
        TokenData(str(folder), 4).provenance()


def test_a_folder_that_is_there_is_not_overwritten(shop, tokens):
    with pytest.raises(UserError, match="is there already"):
        run("cache", *SMALL, "--output", tokens)
