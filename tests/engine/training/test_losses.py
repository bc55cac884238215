"""The loss: parity with T5X, its gradient, its normalisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recalign.engine.training.losses import normalizer_and_weights, token_cross_entropy
from recalign.errors import UserError
from tests.engine.losses import batch_loss


@pytest.fixture(scope="module")
def logits():
    return np.random.RandomState(3).standard_normal((4, 12, 160)).astype(np.float32) * 3


def definition(logits, targets, z_loss=0.0, smoothing=0.0):
    """The loss written out over soft one-hot targets, as T5X does."""
    vocabulary = logits.shape[-1]
    off = smoothing / (vocabulary - 1)
    soft = jnp.where(jnp.arange(vocabulary) == targets[..., None], 1 - smoothing, off)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    entropy = -jnp.sum(jnp.where(soft > 0, soft * jnp.log(jnp.maximum(soft, 1e-30)), 0), axis=-1)
    cross = -jnp.sum(soft * (logits - log_z[..., None]), axis=-1)
    return cross + z_loss * log_z**2 - entropy


@pytest.mark.parametrize("name", ["unpacked", "packed"])
def test_loss_and_z_loss_are_those_of_t5x(golden, name):
    batch = {k.split("/")[1]: v for k, v in golden.items() if k.startswith(f"{name}/")}
    loss, sums = batch_loss(batch["logits"], batch, z_loss=1e-4)
    np.testing.assert_allclose(loss, batch["loss"], rtol=1e-6)
    np.testing.assert_allclose(sums["z_loss"], batch["z_loss"], rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_value_and_gradient_equal_the_definition(case, logits, z_loss, smoothing):
    targets = jnp.asarray(case.batch(0)["decoder_target_tokens"])
    weights = np.random.RandomState(4).uniform(size=targets.shape)

    def ours(logits):
        return jnp.sum(weights * token_cross_entropy(logits, targets, z_loss, smoothing)[0])

    def expected(logits):
        return jnp.sum(weights * definition(logits, targets, z_loss, smoothing))

    np.testing.assert_allclose(ours(logits), expected(logits), rtol=1e-5)
    np.testing.assert_allclose(
        jax.grad(ours)(logits), jax.grad(expected)(logits), rtol=1e-4, atol=1e-6
    )


def test_bfloat16_logits_give_a_float32_loss_and_a_bfloat16_gradient(case, logits):
    low = jnp.asarray(logits, jnp.bfloat16)
    targets = jnp.asarray(case.batch(0)["decoder_target_tokens"])
    loss, gradient = jax.value_and_grad(lambda x: token_cross_entropy(x, targets)[0].sum())(low)
    assert loss.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16


def test_a_number_divides_the_sum(case, logits):
    batch = case.batch(0)
    total, sums = batch_loss(logits, batch)
    np.testing.assert_allclose(total, sums["loss"], rtol=1e-6)
    np.testing.assert_allclose(
        batch_loss(logits, batch, loss_normalizing_factor=64)[0], total / 64, rtol=1e-6
    )


def test_real_and_total_tokens(case, logits):
    batch = case.batch(0)
    total = batch_loss(logits, batch)[0]
    for name, count in (
        ("NUM_REAL_TARGET_TOKENS", batch["decoder_loss_weights"].sum()),
        ("num_total_target_tokens", 4 * 12),
    ):
        loss, _ = batch_loss(logits, batch, loss_normalizing_factor=name)
        np.testing.assert_allclose(loss, total / count, rtol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_average_per_sequence_weighs_each_sequence_once(case, logits, packed):
    batch = case.batch(0, packed)
    loss, _ = batch_loss(logits, batch, loss_normalizing_factor="AVERAGE_PER_SEQUENCE")
    tokens = definition(logits, jnp.asarray(batch["decoder_target_tokens"]))
    segments = batch.get("decoder_segment_ids", batch["decoder_loss_weights"])
    means = [
        tokens[row][segments[row] == segment].mean()
        for row in range(4)
        for segment in np.unique(segments[row][segments[row] > 0])
    ]
    np.testing.assert_allclose(loss, np.mean(means), rtol=1e-5)


def test_padding_weighs_nothing_without_given_weights(case, logits):
    batch = case.batch(0)
    weights = batch.pop("decoder_loss_weights")
    np.testing.assert_array_equal(normalizer_and_weights(batch, None)[1], weights)


def test_the_end_of_a_target_weighs_as_its_other_tokens():
    """Without given weights; the least id is that of end-of-sequence."""
    targets = np.array([[7, 1, 0], [5, 9, 1]])
    _, weights = normalizer_and_weights({"decoder_target_tokens": targets}, None)
    np.testing.assert_array_equal(weights, [[1, 1, 0], [1, 1, 1]])


def test_sums_are_weighted(case, logits):
    batch = case.batch(0)
    targets = jnp.asarray(batch["decoder_target_tokens"])
    weights = np.random.RandomState(5).uniform(size=targets.shape) * batch["decoder_loss_weights"]
    batch["decoder_loss_weights"] = weights
    # Of random logits a target's is hardly ever the highest: here it is in every other token.
    every_other = np.arange(targets.shape[1])[:, None] % 2
    logits = logits + 20 * every_other * (np.arange(logits.shape[-1]) == targets[..., None])
    total, sums = batch_loss(logits, batch, 1e-2, "NUM_REAL_TARGET_TOKENS")
    expected = {
        "loss": definition(logits, targets, 1e-2),
        "z_loss": 1e-2 * jax.nn.logsumexp(logits, axis=-1) ** 2,
        "weights": np.ones(targets.shape),
        "correct": logits.argmax(-1) == targets,
    }
    assert sums.keys() == expected.keys()
    assert 0 < sums["correct"] < sums["weights"]
    for name, of_each in expected.items():
        np.testing.assert_allclose(sums[name], (of_each * weights).sum(), rtol=1e-5)
    np.testing.assert_allclose(total, sums["loss"] / weights.sum(), rtol=1e-5)


def test_an_unknown_normaliser_is_named(case):
    with pytest.raises(UserError, match=r"'PER_TOKEN'.*NUM_REAL_TARGET_TOKENS"):
        normalizer_and_weights(case.batch(0), "PER_TOKEN")
