"""T5X itself drives the network and restores what is written for it; skipped where it is absent."""

import functools

import numpy as np
import pytest
from flax import traverse_util

from recalign.engine.search.generation import generate_greedily
from recalign.engine.weights.conversion import convert

pytest.importorskip("t5x", reason="T5X is not installed (it is not on PyPI)")


@pytest.fixture(scope="module")
def model_of(golden_model):
    """T5X's model, or another kind of it, around the golden network."""
    import seqio
    from t5x import adafactor, models

    vocabulary = seqio.PassThroughVocabulary(256, eos_id=1)
    rules = adafactor.standard_logical_factor_rules()
    return lambda kind=models.EncoderDecoderModel, **options: kind(
        golden_model[0],
        vocabulary,
        vocabulary,
        adafactor.Adafactor(0.01, decay_rate=0.8, step_offset=0, logical_factor_rules=rules),
        z_loss=1e-4,
        **options,
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


@pytest.fixture(scope="module")
def choices(batch):
    """Five answers an example, of one to five tokens and EOS: int32[B, 5, 6]."""
    rng = np.random.default_rng(0)
    answers = rng.integers(2, 256, (len(batch["encoder_input_tokens"]), 5, 6))
    ends = rng.integers(1, 6, answers.shape[:2])[:, :, None]
    at = np.arange(6)
    return np.where(at < ends, answers, np.where(at == ends, 1, 0)).astype(np.int32)


def test_choices_have_the_scores_that_it_gives_them_as_targets(
    model_of, golden_model, batch, choices
):
    from recalign.t5x import model as t5x_model

    found = model_of(t5x_model.EncoderDecoderModel).score_batch(
        golden_model[1], {**batch, "choices": choices}
    )
    assert found.shape == choices.shape[:2]
    for column, answers in enumerate(np.moveaxis(choices, 1, 0)):
        asked = {
            "encoder_input_tokens": batch["encoder_input_tokens"],
            "decoder_input_tokens": np.pad(answers, ((0, 0), (1, 0)))[:, :-1],
            "decoder_target_tokens": answers,
            "decoder_loss_weights": answers > 0,
        }
        expected = model_of().score_batch(golden_model[1], asked)
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-5)


def test_with_choices_it_writes_freely_or_nothing_that_ends(model_of, golden_model, batch, choices):
    from recalign.t5x import model as t5x_model

    module, params = golden_model
    flat = traverse_util.flatten_dict(params, sep="/")
    kernel = flat["decoder/logits_dense/kernel"].copy()
    kernel[:, 1] *= 2  # EOS is likelier, so that some answers end in time
    params = traverse_util.unflatten_dict({**flat, "decoder/logits_dense/kernel": kernel}, sep="/")
    found, _ = model_of(t5x_model.EncoderDecoderModel, decode_fn=None).predict_batch_with_aux(
        params, {**batch, "choices": choices}
    )
    length = choices.shape[2] + 2
    inputs = batch["encoder_input_tokens"]
    written = np.array(generate_greedily(module, {"params": params}, inputs, length))
    ended = (written == 1).any(axis=1)
    assert 0 < ended.sum() < len(ended)
    np.testing.assert_array_equal(found, np.where(ended[:, None], written, 0))


def test_without_choices_it_is_t5x_s_own(model_of, golden_model, batch):
    from t5x import decoding

    from recalign.t5x import model as t5x_model

    models = [
        model_of(**kind, decode_fn=decoding.beam_search)
        for kind in ({}, {"kind": t5x_model.EncoderDecoderModel})
    ]
    for method in ("score_batch", "predict_batch"):
        theirs, ours = (getattr(model, method)(golden_model[1], batch) for model in models)
        np.testing.assert_array_equal(ours, theirs)
