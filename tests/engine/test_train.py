"""The training loop: it learns, resumes to the same numbers, and stops at a broken loss."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
from etils import epath

from recalign.engine.adafactor import adafactor
from recalign.engine.checkpoints import Checkpoints
from recalign.engine.model import EncoderDecoderModel
from recalign.engine.network import T5Config, Transformer
from recalign.engine.partitioning import Partitioner
from recalign.engine.train import train
from recalign.engine.trainer import Trainer
from recalign.errors import UserError

CONFIG = T5Config(
    vocab_size=32,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=16,
    dropout_rate=0.1,
)


class CopyTask:
    """Endless batches whose targets are their inputs; its position is one number."""

    def __init__(self):
        self.position = 0

    def __iter__(self):
        return self

    def __next__(self):
        rng = np.random.default_rng(self.position)
        self.position += 1
        targets = rng.integers(2, 32, (8, 4)).astype(np.int32)
        return {
            "encoder_input_tokens": targets,
            "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
            "decoder_target_tokens": targets,
        }

    def save(self, filename):
        epath.Path(filename).write_text(json.dumps(self.position))

    def restore(self, filename):
        self.position = json.loads(epath.Path(filename).read_text())


def trainer(optimizer=None, config=CONFIG):
    model = EncoderDecoderModel(Transformer(config), optimizer or adafactor(0.05))
    return Trainer(model, Partitioner(devices=jax.devices()[:1]), seed=3)


def assert_equal(one, other):
    for (path, leaf), expected in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    ):
        np.testing.assert_array_equal(leaf, expected, err_msg=jax.tree_util.keystr(path))


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    """Parameters, optimiser, dropout and data position are all as if nothing had happened."""
    options = {"checkpoint_period": 4, "log_period": 3}
    whole = train(
        trainer=trainer(),
        train_input=CopyTask(),
        model_dir=tmp_path / "whole",
        total_steps=10,
        **options,
    )
    for steps in (6, 10):
        task = CopyTask()
        resumed = train(
            trainer=trainer(),
            train_input=task,
            model_dir=tmp_path / "resumed",
            total_steps=steps,
            **options,
        )
    assert task.position == 10
    assert_equal(resumed, whole)


def test_evaluations_come_at_their_period_and_at_the_end(tmp_path):
    seen = []
    state = train(
        trainer=trainer(),
        train_input=CopyTask(),
        model_dir=tmp_path,
        total_steps=7,
        evaluate=lambda params: {"norm": float(optax.tree.norm(params))},
        eval_period=3,
        on_metrics=lambda step, metrics: seen.append((step, metrics["norm"])),
    )
    assert [step for step, _ in seen] == [3, 6, 7]
    assert seen[-1][1] == float(optax.tree.norm(state.params))
    assert len({norm for _, norm in seen}) == 3


def test_given_parameters_are_where_training_starts(tmp_path):
    given = jax.tree.map(lambda leaf: leaf + 1, trainer().init_state().params)
    start = train(
        trainer=trainer(),
        train_input=CopyTask(),
        model_dir=tmp_path,
        total_steps=0,
        initial_params=lambda: given,
    )
    assert_equal(start.params, given)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    train(
        trainer=trainer(),
        train_input=CopyTask(),
        model_dir=tmp_path,
        total_steps=6,
        checkpoint_period=1,
        checkpoints_to_keep=2,
    )
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {"5", "6"}


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="at step"):
        train(
            trainer=trainer(optax.sgd(1e20)),
            train_input=CopyTask(),
            model_dir=tmp_path,
            total_steps=20,
            log_period=5,
        )


def test_restoring_another_model_or_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        Checkpoints(tmp_path / "empty").restore(trainer().abstract_state())
    train(trainer=trainer(), train_input=CopyTask(), model_dir=tmp_path, total_steps=1)
    wider = trainer(config=dataclasses.replace(CONFIG, mlp_dim=32))
    with pytest.raises(UserError, match="does not fit this model"):
        Checkpoints(tmp_path / "checkpoints").restore(wider.abstract_state())


def test_a_batch_that_microbatches_do_not_divide_is_named(tmp_path):
    subject = dataclasses.replace(trainer(), num_microbatches=3)
    with pytest.raises(UserError, match="num_microbatches = 3 does not divide the 8 rows"):
        train(trainer=subject, train_input=CopyTask(), model_dir=tmp_path, total_steps=1)


def test_the_loss_goes_down(tmp_path):
    losses = []
    subject = trainer()
    state, step = subject.init_state(), subject.step_fn()
    for _, batch in zip(range(150), CopyTask(), strict=False):
        state, sums = step(state, subject.partitioner.put_batch(batch))
        losses.append(float(sums["loss"] / sums["weights"]))
    assert np.mean(losses[:5]) > 3
    assert np.mean(losses[-10:]) < 2.9  # log(30) = 3.4 knows nothing of the input
