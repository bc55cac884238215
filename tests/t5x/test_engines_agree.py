"""Both engines do the same from the same parameters, and each goes on from the other's."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

from recalign.engine.weights.conversion import load_params
from recalign.errors import UserError
from recalign.runs import configuration
from recalign.runs.run import make
from recalign.t5x.bindings import items_only, parameters_alone

GIN = Path(__file__).parents[2] / "gin"
STEPS = 20


@pytest.fixture(scope="module")
def alike(shrunk):
    """What both engines are told; dropout draws differently in each."""
    sizes = {name: value for name, value in shrunk.items() if name.startswith("T5Config")}
    return {"BATCH_SIZE": 4, "DROPOUT_RATE": 0.0, "TRAIN_STEPS": STEPS, **sizes}


@pytest.fixture(scope="module")
def checkpoint(recalign, shop, alike, tmp_path_factory):
    """Parameters that the built-in engine has trained a little, written for T5X."""
    folder = tmp_path_factory.mktemp("start")
    recalign(
        *("train", f"--gin_search_paths={GIN}", "--gin_file=toyshop.gin"),
        **{**alike, "TRAIN_STEPS": 2, "EVAL_EXAMPLES": 4, "MODEL_DIR": folder / "run"},
    )
    recalign("convert", folder / "run", folder / "checkpoint_2", "--to", "t5x")
    return folder / "checkpoint_2"


@pytest.fixture(scope="module")
def ours(alike, checkpoint, tmp_path_factory):
    """The losses and the parameters of the built-in engine."""
    bindings = {**alike, "MODEL_DIR": tmp_path_factory.mktemp("ours")}
    configuration.parse(
        ["toyshop.gin"], [f"{name}={value}" for name, value in bindings.items()], [str(GIN)]
    )
    run = make()
    trainer, batches = run.trainer, run.data.train_batches()
    state = trainer.init_state()
    _, params = load_params(str(checkpoint), trainer.model.module.config)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    state, step = state.replace(params=jax.device_put(params, shardings)), trainer.step_fn()
    losses = []
    for _ in range(STEPS):
        state, sums = step(state, trainer.partitioner.put_batch(next(batches)))
        losses.append(float(sums["loss"]))
    return losses, traverse_util.flatten_dict(state.params, sep="/")


@pytest.mark.parametrize("network", ["recalign", "t5x"])
def test_twenty_steps_give_the_same_losses_and_parameters(
    t5x, alike, checkpoint, ours, tmp_path, network
):
    files = ["t5x/toyshop.gin", *(["t5x/network.gin"] if network == "t5x" else [])]
    told = {
        f"recalign.engine.network.transformer.{name}"
        if name.startswith("T5Config")
        else name: value
        for name, value in alike.items()
    }
    t5x(
        *("train", *files),
        **told,
        **{
            "MODEL_DIR": tmp_path,
            "INITIAL_CHECKPOINT_PATH": checkpoint,
            "CHECKPOINT_PERIOD": STEPS,
            "train.stats_period": 1,
            "train.train_eval_dataset_cfg": None,
            "train.infer_eval_dataset_cfg": None,
        },
    )
    losses, params = ours
    np.testing.assert_allclose(logged(tmp_path / "train", "loss"), losses, rtol=1e-5)
    _, theirs = load_params(str(tmp_path / f"checkpoint_{STEPS}"))
    for name, value in traverse_util.flatten_dict(theirs, sep="/").items():
        np.testing.assert_allclose(value, params[name], rtol=1e-3, atol=1e-5, err_msg=name)


def logged(folder: Path, tag: str) -> list[float]:
    """The values of a TensorBoard scalar, step by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return [float(make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]


def test_the_built_in_engine_trains_on_from_a_checkpoint_of_t5x(recalign, trained, alike, tmp_path):
    """T5X's six steps are worth keeping: three more begin where it ended, not at its beginning."""
    recalign(
        *("train", f"--gin_search_paths={GIN}", "--gin_file=toyshop.gin"),
        **{**alike, "TRAIN_STEPS": 1, "EVAL_EXAMPLES": 4, "LEARNING_RATE": 0.0},
        MODEL_DIR=tmp_path,
        INITIAL_CHECKPOINT_PATH=trained,
    )
    _, theirs = load_params(str(trained / "checkpoint_6"))
    _, continued = load_params(str(tmp_path))
    theirs = traverse_util.flatten_dict(theirs, sep="/")
    for name, value in traverse_util.flatten_dict(continued, sep="/").items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_a_new_run_of_t5x_counts_from_the_checkpoint_it_starts_from(t5x, trained, shrunk, tmp_path):
    """The checkpoint is of step 6, with an optimiser, as the public ones are of step 1,184,000."""
    t5x(
        *("train", "t5x/toyshop.gin"),
        **{**shrunk, "MODEL_DIR": tmp_path, "TRAIN_STEPS": 3, "CHECKPOINT_PERIOD": 3},
        **{
            "INITIAL_CHECKPOINT_PATH": trained / "checkpoint_6",
            "train.train_eval_dataset_cfg": None,
            "train.infer_eval_dataset_cfg": None,
        },
    )
    steps = sorted(path.name for path in tmp_path.glob("checkpoint_*"))
    assert steps == ["checkpoint_0", "checkpoint_3"]
    _, start = load_params(str(tmp_path / "checkpoint_0"))
    _, given = load_params(str(trained / "checkpoint_6"))
    jax.tree.map(np.testing.assert_array_equal, start, given)


def test_a_checkpoint_without_a_parameter_is_refused():
    state = {"target": {"encoder": {"a": 1, "b": 2}}, "state": {"step": 0}}
    checkpoint = {"target": {"encoder": {"a": 1}}, "state": {"step": 7}}
    with pytest.raises(ValueError, match="no parameter encoder/b"):
        parameters_alone(checkpoint, state)
    assert parameters_alone(checkpoint, state, is_resuming=True) == checkpoint


def test_a_rating_is_not_answered_with_an_item(rated):
    name = f"{rated.name}_rating"
    with pytest.raises(UserError, match=f"{name} holds no retrieval or ranking task"):
        items_only(name)(inputs=None, cache=None, num_decodes=1)
