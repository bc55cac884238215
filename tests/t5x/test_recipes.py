"""T5X trains, resumes, judges and infers with the files of gin/t5x."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util

from recalign.engine.network.config import T5Config, parameter_shapes
from recalign.engine.weights.conversion import load_params
from recalign.errors import UserError
from tests.engine.weights.saving import save_params

GIN = Path(__file__).parents[2] / "gin"
RECIPES = sorted(path.name for path in GIN.glob("*.gin"))


def judged(folder, task):
    """What SeqIO's evaluator wrote of a task under T5X, an evaluation a line."""
    text = (folder / f"inference_eval/{task}-metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def metrics(folder, domain):
    """The last of `judged` of each task of a domain, as the built-in engine names them."""
    written = (folder / "inference_eval").glob(f"{domain}_*-metrics.jsonl")
    return {
        f"{task}/test/{name}": value
        for task in (path.name.removesuffix("-metrics.jsonl") for path in written)
        for name, value in judged(folder, task)[-1].items()
        if name != "step"
    }


def sizes_of(shrunk):
    """Those overrides that are of the network."""
    return {name: value for name, value in shrunk.items() if name.startswith("T5Config")}


def parameters(checkpoint):
    return traverse_util.flatten_dict(load_params(str(checkpoint))[1], sep="/")


@pytest.fixture(scope="module")
def built_in(recalign, trained, shrunk, tmp_path_factory):
    """The built-in engine's metrics on test, of the parameters that T5X ended with."""
    folder = tmp_path_factory.mktemp("built_in")
    ours = {name: value for name, value in shrunk.items() if name != "EVAL_STEPS"}
    recalign(
        *("train", f"--gin_search_paths={GIN}", "--gin_file=toyshop.gin"),
        **ours,
        MODEL_DIR=folder,
        TRAIN_STEPS=0,
        INITIAL_CHECKPOINT_PATH=trained / "checkpoint_6",
    )
    return json.loads((folder / "metrics.json").read_text())


def test_training_writes_checkpoints_and_our_metrics(trained):
    assert sorted(path.name for path in trained.glob("checkpoint_*")) == [
        "checkpoint_3",
        "checkpoint_6",
    ]
    lines = judged(trained, "toyshop_retrieval")
    assert [line["step"] for line in lines] == [3, 6]
    for line in lines:
        assert {"full/hr@10", "full/ndcg@20", "full/mrr@10", "full_unseen/hr@1"} <= line.keys()
        assert line["full/invalid_rate"] == line["full/duplicate_rate"] == 0
    assert [line["step"] for line in judged(trained, "toyshop_ranking")] == [3, 6]


def test_a_run_goes_on_where_it_stopped(train_with_t5x, trained, tmp_path):
    train_with_t5x(tmp_path, 3)
    train_with_t5x(tmp_path, 6)
    whole, resumed = parameters(trained / "checkpoint_6"), parameters(tmp_path / "checkpoint_6")
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    assert metrics(tmp_path, "toyshop") == metrics(trained, "toyshop")


@pytest.mark.parametrize("network", ["recalign", "t5x"])
def test_both_engines_judge_the_same_parameters_alike(
    t5x, trained, built_in, shrunk, tmp_path, network
):
    files = ["toyshop.gin", "t5x/eval.gin", *(["t5x/network.gin"] if network == "t5x" else [])]
    sizes = {
        f"recalign.engine.network.transformer.{name}": value
        for name, value in sizes_of(shrunk).items()
    }
    t5x(
        *("eval", *files),
        CHECKPOINT_PATH=trained / "checkpoint_6",
        EVAL_OUTPUT_DIR=tmp_path,
        **sizes,
    )
    found = metrics(tmp_path, "toyshop")
    compared = {name: value for name, value in found.items() if "/full_unseen/" not in name}
    assert compared == pytest.approx({name: built_in[name] for name in compared})
    assert "toyshop_retrieval/test/full/hr@10" in compared
    assert sum(name.startswith("toyshop_ranking/test/cand") for name in compared) == 5


@pytest.mark.parametrize("network", ["recalign", "t5x"])
@pytest.mark.parametrize(
    "answers",
    [
        # Of titles, each answer begins with another number of tokens.
        {"item_texts.target_form": "title", "TASK_FEATURE_LENGTHS": {"inputs": 256, "targets": 48}},
        {"item_texts.add_eos": False, "retrieval.retrieval.next_items": 3},
    ],
)
def test_both_engines_begin_an_answer_with_what_is_given(
    t5x, recalign, trained, shrunk, tmp_path, network, answers
):
    answers |= {f"{kind}.{kind}.answer_prefix": 2 for kind in ("retrieval", "ranking")}
    recalign(
        *("train", f"--gin_search_paths={GIN}", "--gin_file=toyshop.gin"),
        **{name: value for name, value in shrunk.items() if name != "EVAL_STEPS"},
        **{**answers, "MODEL_DIR": tmp_path / "run", "TRAIN_STEPS": 0},
        INITIAL_CHECKPOINT_PATH=trained / "checkpoint_6",
    )
    built_in = json.loads((tmp_path / "run/metrics.json").read_text())
    t5x(
        *("eval", "toyshop.gin", "t5x/eval.gin"),
        *(["t5x/network.gin"] if network == "t5x" else []),
        CHECKPOINT_PATH=trained / "checkpoint_6",
        EVAL_OUTPUT_DIR=tmp_path,
        **{
            f"recalign.engine.network.transformer.{name}": value
            for name, value in sizes_of(shrunk).items()
        },
        **answers,
    )
    found = metrics(tmp_path, "toyshop")
    compared = {name: value for name, value in found.items() if "/full_unseen/" not in name}
    assert compared == pytest.approx({name: built_in[name] for name in compared})
    assert len([name for name in compared if "/full/" in name or "/cand" in name]) > 10


def test_both_engines_judge_a_copy_gate_alike(t5x, recalign, shop, shrunk, tmp_path):
    sizes = {**sizes_of(shrunk), "T5Config.copy_gate": True, "T5Config.copy_weights": True}
    recalign(
        *("train", f"--gin_search_paths={GIN}", "--gin_file=toyshop.gin"),
        **{"BATCH_SIZE": 4, "EVAL_EXAMPLES": 20, "TRAIN_STEPS": 3, "EVAL_PERIOD": 0, **sizes},
        MODEL_DIR=tmp_path / "run",
    )
    built_in = json.loads((tmp_path / "run/metrics.json").read_text())
    recalign("convert", tmp_path / "run", tmp_path / "checkpoint_3", "--to", "t5x")
    t5x(
        *("eval", "toyshop.gin", "t5x/eval.gin"),
        **{"EVAL_EXAMPLES": 20, "CHECKPOINT_PATH": tmp_path / "checkpoint_3", **sizes},
        EVAL_OUTPUT_DIR=tmp_path,
    )
    found = metrics(tmp_path, "toyshop")
    compared = {name: value for name, value in found.items() if "/full_unseen/" not in name}
    assert compared == pytest.approx({name: built_in[name] for name in compared})
    assert len([name for name in compared if "/full/" in name]) > 5


def test_t5x_trains_from_a_table_that_has_grown(t5x, recalign, shared, shrunk, tmp_path):
    """T5's vocabulary of 32,128 rows and the tokens of 40 items."""
    recalign(
        *("prepare", "toyshop", "--users", 60, "--items", 40, "--name", "grown", "--item_tokens"),
        *("--vocabulary", shared / "vocab/t5/spiece.model"),
    )
    sizes = {"num_heads": 2, "head_dim": 4, "mlp_dim": 24}
    shrunk = {**shrunk, **{f"T5Config.{name}": value for name, value in sizes.items()}}
    fields = {name.removeprefix("T5Config."): v for name, v in sizes_of(shrunk).items()}
    shapes = parameter_shapes(T5Config(32_128, **fields))
    rng = np.random.default_rng(0)
    flat = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_params(traverse_util.unflatten_dict(flat, sep="/"), tmp_path / "small", "t5x")
    grown = tmp_path / "large/checkpoint_0"
    recalign("convert", tmp_path / "small", grown, "--to", "t5x", "--item_tokens=grown")
    t5x(
        *("train", "t5x/toyshop.gin"),
        **{**shrunk, "MIXTURE_OR_TASK_NAME": "grown_retrieval_only", "VOCAB_SIZE": 32_256},
        **{"TRAIN_STEPS": 2, "EVAL_PERIOD": 2, "CHECKPOINT_PERIOD": 2, "MODEL_DIR": tmp_path},
        INITIAL_CHECKPOINT_PATH=grown,
    )
    start, large = parameters(tmp_path / "checkpoint_0"), parameters(grown)
    for name, value in large.items():
        np.testing.assert_array_equal(start[name], value, err_msg=name)
    # Sentinels have moved behind the new tokens; all else is where it was.
    table = "token_embedder/embedding"
    np.testing.assert_array_equal(start[table][:32_000], flat[table][:32_000])
    moved = parameters(tmp_path / "checkpoint_2")[table] - start[table]
    assert (np.abs(moved[32_000:32_040]).max(axis=1) > 1e-5).sum() > 4  # those of two batches
    [line] = judged(tmp_path, "grown_retrieval")
    assert line["full/invalid_rate"] == line["full/duplicate_rate"] == 0


def test_both_engines_judge_ratings_alike(t5x, recalign, rated, shrunk, tmp_path):
    """Sixty steps are enough for the network to write ratings, if not the right ones."""
    mixture = {"MIXTURE_OR_TASK_NAME": f"{rated.name}_rating_only"}
    recalign(
        *("train", f"--gin_search_paths={GIN}", "--gin_file=toyshop.gin"),
        **{name: value for name, value in shrunk.items() if name != "EVAL_STEPS"},
        **{**mixture, "MODEL_DIR": tmp_path / "run", "TRAIN_STEPS": 60, "EVAL_PERIOD": 0},
    )
    recalign("convert", tmp_path / "run", tmp_path / "checkpoint_60", "--to", "t5x")
    t5x(
        *("eval", "toyshop.gin", "t5x/eval.gin"),
        **{**mixture, "CHECKPOINT_PATH": tmp_path / "checkpoint_60", "EVAL_OUTPUT_DIR": tmp_path},
        **sizes_of(shrunk),
    )
    found = metrics(tmp_path, rated.name)
    built_in = json.loads((tmp_path / "run/metrics.json").read_text())
    assert found == pytest.approx({name: built_in[name] for name in found})
    task = f"{rated.name}_rating/test"
    assert found[f"{task}/rating/parse_rate"] > 0
    assert {f"{task}/rating/rmse", f"{task}/rating_expected/mae"} <= found.keys()


def test_infer_gives_every_beam_with_its_score(t5x, trained, built_in, shrunk, shop, tmp_path):
    t5x(
        *("infer", "toyshop.gin", "t5x/infer.gin"),
        MIXTURE_OR_TASK_NAME="toyshop_retrieval",
        CHECKPOINT_PATH=trained / "checkpoint_6",
        INFER_OUTPUT_DIR=tmp_path,
        **sizes_of(shrunk),
    )
    [path] = tmp_path.glob("toyshop_retrieval-*-of-00001")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    split = shop.split("test")
    assert [line["inputs"]["item"] for line in lines] == split.targets.tolist()
    for line in lines:
        assert len(set(line["prediction"])) == 20
        assert line["aux"]["scores"] == sorted(line["aux"]["scores"])
    hits = [f"#{int(line['inputs']['item']):02}" in line["prediction"][-10:] for line in lines]
    assert np.mean(hits) == pytest.approx(built_in["toyshop_retrieval/test/full/hr@10"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_one_that_t5x_understands(t5x, shop, recipe, tmp_path):
    t5x(
        *("main", f"t5x/{recipe}"),
        flags=("--run_mode=train", "--dry_run"),
        MODEL_DIR=tmp_path,
    )


def test_there_is_a_recipe_of_each_kind():
    assert {"toyshop.gin", "beauty.gin", "toys.gin", "movielens_tiny.gin"} <= set(RECIPES)


@dataclasses.dataclass(frozen=True)
class _Wider(T5Config):
    block: bool = False


@pytest.mark.parametrize("field", ["copy_gate", "block"])
def test_a_field_that_t5x_has_not_is_refused_where_it_is_set(field):
    from recalign.t5x.bindings import t5x_config

    assert t5x_config(_Wider(40, scan_layers=True, remat_policy="full")).vocab_size == 40
    with pytest.raises(UserError, match=f"T5X's own network has no {field}: T5Config.{field} = F"):
        t5x_config(_Wider(40, **{field: True}))
