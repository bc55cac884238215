"""What is written of data made by hand, file by file."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from recalign.errors import UserError
from recalign.evaluation import examples as stored
from recalign.evaluation.examples import RankingExamples, RatingExamples, RetrievalExamples
from recalign.tokens.batches import CachedBatches, with_derived
from recalign.tokens.writing import write, write_batches

ROWS, SIZE = 2, 257  # token ids up to 256, which a byte does not hold


def make_batches(packed=True):
    """Rows of one or two samples, which hold the largest id of all."""
    rng = np.random.default_rng(0)
    while True:
        features = {
            name: rng.integers(1, SIZE, (ROWS, 5))
            for name in ("encoder_input_tokens", "decoder_target_tokens")
        }
        features["decoder_target_tokens"][0, 0] = SIZE - 1
        if packed:
            segments = np.array([[1, 1, 2, 2, 2], [1, 1, 1, 1, 1]])
            features |= {f"{side}_segment_ids": segments for side in ("encoder", "decoder")}
        weights = rng.integers(0, 2, (ROWS, 5))
        yield with_derived(features | {"decoder_loss_weights": weights})


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("number", [1, 3])
def test_batches_are_read_as_they_were_written(tmp_path, packed, number):
    (tmp_path / "train").mkdir()
    rows = write_batches(make_batches(packed), number, tmp_path / "train", np.dtype(np.uint16))
    assert rows == number * ROWS
    (tmp_path / "metadata.json").write_text(json.dumps({"rows": rows}))
    found = CachedBatches(str(tmp_path), ROWS)
    for _, expected in zip(range(number), make_batches(packed), strict=False):
        batch = next(found)
        assert batch.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(batch[name], values, err_msg=name)


@pytest.mark.parametrize("name", ["decoder_positions", "decoder_input_tokens", "of_another_kind"])
def test_what_would_be_lost_is_refused(tmp_path, name):
    batch = next(make_batches())
    changed = batch | {name: batch["decoder_positions"] + 1}
    lacking = {other: values for other, values in batch.items() if other != name}
    for given in (changed, lacking) if name in batch else (changed,):
        with pytest.raises(ValueError, match=f"the feature {name} does not follow"):
            write_batches(iter([given]), 1, tmp_path, np.dtype(np.uint16))
    assert not [*tmp_path.iterdir()]


@dataclasses.dataclass
class ByHand:
    """Three tasks of one domain, whose folder holds two files and a folder."""

    domain: SimpleNamespace

    def examples(self, split, number):
        ones = np.arange(5 if number is None else number, dtype=np.int32)
        rows = [np.full(2, one) for one in ones]
        of_items = {
            "offsets": np.arange(len(ones) + 1),
            "events": ones,
            "targets": ones,
        }
        make = {"split": split, "domain": self.domain, "inputs": rows}
        return [
            RetrievalExamples(task="shop_retrieval", **make, **of_items),
            RankingExamples(task="shop_ranking", **make, **of_items, candidates=ones[:, None]),
            RatingExamples(
                task="shop_rating", **make, users=ones, items=ones, ratings=ones, values=ones,
                stars=rows,
            ),
        ]  # fmt: skip

    def train_batches(self):
        return make_batches()

    def item_tokens(self, task):
        return np.array([[len(task), 1]])

    def vocabulary(self):
        return b"a vocabulary"

    def vocabulary_size(self):
        return SIZE

    def provenance(self):
        return {"vocabulary": "sha256 0"}


@pytest.fixture
def data(tmp_path):
    source = tmp_path / "shop"
    (source / "1.0.0").mkdir(parents=True)
    for name in ("items.parquet", "statistics.json"):
        (source / name).write_text(name)
    return ByHand(SimpleNamespace(name="shop", path=source))


def test_a_folder_holds_all_that_a_run_reads(data, tmp_path):
    folder = tmp_path / "tokens"
    assert write(data, 3, 2, "a recipe", folder) == 3 * ROWS
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    train = {name for name in files if name.startswith("train/")}
    kinds = ("retrieval", "ranking", "rating")
    assert files - train == {
        "manifest.json",
        "metadata.json",
        "spiece.model",
        "train.gin",
        *(f"domains/shop/{name}" for name in ("items.parquet", "statistics.json")),
        *(f"examples/{split}/shop_{k}.npz" for split in ("validation", "test") for k in kinds),
        *(f"items/shop_{kind}.npy" for kind in ("retrieval", "ranking")),
    }
    assert not (folder / "domains/shop/1.0.0").exists()
    assert (folder / "spiece.model").read_bytes() == data.vocabulary()
    assert (folder / "train.gin").read_text() == "a recipe"
    assert (folder / "domains/shop/items.parquet").read_text() == "items.parquet"
    assert json.loads((folder / "metadata.json").read_text()) == {
        "rows": 3 * ROWS,
        "vocabulary_size": SIZE,
        "provenance": data.provenance(),
        "eval_examples": 2,
    }
    types = {path.stem: np.load(path).dtype.name for path in folder.glob("train/*.npy")}
    assert types == {
        **dict.fromkeys(("encoder_input_tokens", "decoder_target_tokens"), "uint16"),
        **dict.fromkeys(("encoder_segment_ids", "decoder_segment_ids"), "uint16"),
        "decoder_loss_weights": "uint8",
    }
    found = CachedBatches(str(folder), ROWS)
    for _, expected in zip(range(3), make_batches(), strict=False):
        for name, values in next(found).items():
            np.testing.assert_array_equal(values, expected[name], err_msg=name)
    for split, number in (("validation", 2), ("test", 5)):
        for kind in kinds:
            path = folder / "examples" / split / f"shop_{kind}.npz"
            examples = stored.load(path, lambda name: name)
            assert (examples.task, examples.domain) == (f"shop_{kind}", "shop")
            assert len(examples) == number
    for kind in ("retrieval", "ranking"):
        tokens = np.load(folder / "items" / f"shop_{kind}.npy")
        assert tokens.tolist() == [[len(f"shop_{kind}"), 1]]


def test_what_is_there_is_left_before_anything_is_read(tmp_path):
    (tmp_path / "kept").write_text("")
    with pytest.raises(UserError, match="is there already"):
        write(SimpleNamespace(), 1, None, "", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
