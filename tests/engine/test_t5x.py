"""T5X itself drives the network and restores what is written for it; skipped where it is absent."""

import functools

import numpy as np
import pytest
from flax import traverse_util

from recalign.engine.convert import convert

pytest.importorskip("t5x", reason="T5X is not installed (it is not on PyPI)")


@pytest.fixture(scope="module")
def model_of(golden_model):
    """Given a decoding function, T5X's model around the golden network."""
    import seqio
    from t5x import adafactor, models

    vocabulary = seqio.PassThroughVocabulary(256, eos_id=1)
    rules = adafactor.standard_logical_factor_rules()
    return functools.partial(
        models.EncoderDecoderModel,
        golden_model[0],
        vocabulary,
        vocabulary,
        adafactor.Adafactor(0.01, decay_rate=0.8, step_offset=0, logical_factor_rules=rules),
        z_loss=1e-4,
    )


@pytest.fixture(scope="module")
def batch(golden):
    return {k.split("/")[1]: v for k, v in golden.items() if k.startswith("unpacked/")}


def test_its_loss(model_of, golden_model, batch):
    loss, _ = model_of().loss_fn(golden_model[1], batch, None)
    np.testing.assert_allclose(loss, batch["loss"], rtol=1e-6)


@pytest.mark.parametrize(("beams", "alpha"), [(4, 0.6), (1, 0.0)])
def test_its_beam_search(model_of, golden, golden_model, batch, beams, alpha):
    from t5x import decoding

    model = model_of(decode_fn=functools.partial(decoding.beam_search, alpha=alpha))
    decodes, extra = model.predict_batch_with_aux(
        golden_model[1], batch, return_all_decodes=True, num_decodes=beams
    )
    np.testing.assert_array_equal(decodes, golden[f"beam{beams}/decodes"])
    np.testing.assert_allclose(extra["scores"], golden[f"beam{beams}/scores"], rtol=1e-5)


def test_it_restores_a_converted_checkpoint(tmp_path, shared, model_of, golden_model):
    import jax
    from t5x import partitioning, utils

    convert(shared / "golden/t5x/checkpoint_0", tmp_path / "checkpoint_0", "t5x")
    sides = {"encoder": (4, 24), "decoder": (4, 12)}
    model = model_of()
    initializer = utils.TrainStateInitializer(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes={f"{side}_input_tokens": shape for side, shape in sides.items()},
        partitioner=partitioning.PjitPartitioner(num_partitions=1),
    )
    state = initializer.from_checkpoint(
        [utils.RestoreCheckpointConfig(path=str(tmp_path / "checkpoint_0"), mode="specific")],
        init_rng=jax.random.PRNGKey(0),
    )
    expected = traverse_util.flatten_dict(golden_model[1], sep="/")
    for name, value in traverse_util.flatten_dict(state.params, sep="/").items():
        np.testing.assert_array_equal(value, expected[name])
