"""What a trainer compiles: by what initial parameters are drawn, and what a step holds."""

import types

import jax
import jax.numpy as jnp
import pytest

from recalign.engine.network.transformer import T5Config, Transformer
from recalign.engine.partitioning import Partitioner
from recalign.engine.training.adafactor import adafactor
from recalign.engine.training.averaging import average_parameters
from recalign.engine.training.model import EncoderDecoderModel
from recalign.engine.training.schedules import learning_rate_schedule
from recalign.engine.training.side_information import train_with_side_information
from recalign.engine.training.trainer import Trainer, drawing_by_kernel

KERNEL = "cu_threefry2x32_ffi"
TINY = T5Config(
    vocab_size=8, emb_dim=4, num_heads=1, num_encoder_layers=1, num_decoder_layers=1, head_dim=2,
    mlp_dim=2, dropout_rate=0.5, copy_gate=True, copy_weights=True,
)  # fmt: skip


def lower_for_a_gpu():
    drawn = jax.jit(lambda key: jax.random.truncated_normal(key, -2, 2, (8, 8)))
    return drawn.trace(jax.random.key(0)).lower(lowering_platforms=("cuda",)).as_text()


def test_within_the_block_alone_a_gpu_draws_by_a_kernel():
    before = lower_for_a_gpu()
    with drawing_by_kernel():
        assert KERNEL in lower_for_a_gpu()
    with pytest.raises(ZeroDivisionError), drawing_by_kernel():
        raise ZeroDivisionError
    assert KERNEL not in before
    assert lower_for_a_gpu() == before


class Recorded(EncoderDecoderModel):
    """A model that keeps for what its initial parameters were lowered."""

    def init(self, rng):
        texts.append(lower_for_a_gpu())
        return super().init(rng)


texts = []


@pytest.mark.parametrize("devices", [1, 2])
def test_of_several_devices_each_draws_its_own_part(devices):
    model = Recorded(Transformer(TINY), adafactor(0.1))
    one = Partitioner(devices=jax.devices()[:1])
    several = types.SimpleNamespace(
        mesh=types.SimpleNamespace(size=devices),
        compile=one.compile,
        state_shardings=one.state_shardings,
    )
    texts.clear()
    Trainer(model, several).init_state()
    assert (KERNEL in texts[-1]) == (devices == 1)


def test_equal_trainers_share_a_step_whatever_their_seeds():
    config = T5Config(vocab_size=8)

    def step(seed=0, rate=0.1, **options):
        optimizer = average_parameters(adafactor(learning_rate_schedule(base_learning_rate=rate)))
        model = EncoderDecoderModel(Transformer(config), optimizer, **options)
        return Trainer(model, Partitioner(), seed=seed).step_fn().func

    assert step() is step(seed=1)
    others = [step(), step(rate=0.2), step(z_loss=0.0)]
    assert len({*map(id, others)}) == 3


def test_a_step_holds_no_array_of_a_device():
    """A constant of the program is fetched from its device, which the loop forbids.

    A new run has fetched it before, with its first parameters; one that goes on, on a GPU, has not.
    """
    optimizer = train_with_side_information(adafactor(0.1), size=3, dropout=0.5)
    model = EncoderDecoderModel(Transformer(TINY), average_parameters(optimizer))
    trainer = Trainer(model, Partitioner(devices=jax.devices()[:1]))
    names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    batch = {name: jnp.ones((2, 4), jnp.int32) for name in (*names, "decoder_loss_weights")}
    step = jax.make_jaxpr(trainer._step)(jax.random.key(0), trainer.abstract_state, batch)
    assert not [held for held in step.consts if isinstance(held, jax.Array)]
