"""The training loop: it learns, resumes to the same numbers, and stops at a broken loss."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from etils import epath
from tensorboardX import SummaryWriter

from recalign.engine.network.transformer import T5Config, Transformer
from recalign.engine.partitioning import Partitioner
from recalign.engine.training import events
from recalign.engine.training.adafactor import adafactor
from recalign.engine.training.averaging import average_parameters, trained_parameters
from recalign.engine.training.checkpoints import Checkpoints
from recalign.engine.training.loop import Evaluator, Hooks, train
from recalign.engine.training.model import EncoderDecoderModel
from recalign.engine.training.schedules import learning_rate_schedule
from recalign.engine.training.trainer import Trainer
from recalign.errors import Preempted, UserError

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


def run(folder, steps, task=None, *, subject=None, best=lambda: None, made_from=None, **options):
    """Trains in a folder and gives the last state."""
    return train(
        trainer=subject or trainer(),
        train_input=task or CopyTask(),
        model_dir=folder,
        checkpoints=Checkpoints(folder / "checkpoints", 2, best, made_from),
        total_steps=steps,
        **options,
    )


def steps_kept(folder):
    return {path.name for path in (folder / "checkpoints").iterdir()}


def assert_equal(one, other):
    for (path, leaf), expected in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    ):
        np.testing.assert_array_equal(leaf, expected, err_msg=jax.tree_util.keystr(path))


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    """Parameters, optimiser, dropout and data position are all as if nothing had happened."""
    options = {"checkpoint_period": 4, "log_period": 3}
    whole = run(tmp_path / "whole", 10, **options)
    for steps in (6, 10):
        task = CopyTask()
        resumed = run(tmp_path / "resumed", steps, task, **options)
    assert task.position == 10
    assert_equal(resumed, whole)


# JAX fixes the number of simulated devices when it starts: hence a process of its own.
SEVERAL_DEVICES = """
import dataclasses, pathlib, sys, jax
from recalign.engine.training.side_information import train_with_side_information
from tests.engine.training.test_loop import *

folder = pathlib.Path(sys.argv[1])
for layout in ("tensor_parallel", "fully_sharded"):
    optimizer = average_parameters(train_with_side_information(adafactor(0.05), 4, dropout=0.5))
    several = Partitioner(num_partitions=2, rules=layout)
    assert several.mesh.size == 4
    subject = dataclasses.replace(trainer(optimizer), partitioner=several)
    whole = run(folder / layout / "whole", 4, subject=subject)
    for steps in (2, 4):
        resumed = run(folder / layout / "resumed", steps, subject=subject)
    assert_equal(resumed, whole)
"""


def test_it_trains_and_goes_on_over_several_devices(tmp_path):
    """A step sends nothing from one device to the others but by its own program."""
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    command = [sys.executable, "-c", SEVERAL_DEVICES, str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]


def test_evaluations_come_at_their_period_and_at_the_end(tmp_path):
    seen = []
    norm = Evaluator(lambda params: {"norm": float(optax.tree.norm(params))}, period=3)
    other = Evaluator(lambda params: {"other": 1.0}, period=2)
    last = Evaluator(lambda params: {"last": 1.0}, period=0)
    hooks = Hooks(
        evaluators=[norm, other, last],
        on_metrics=lambda step, metrics: seen.append((step, metrics)),
    )
    state = run(tmp_path, 7, hooks=hooks)
    assert [(step, *metrics) for step, metrics in seen] == [
        (2, "other"),
        (3, "norm"),
        (4, "other"),
        (6, "norm", "other"),
        (7, "norm", "other", "last"),
    ]
    assert seen[-1][1]["norm"] == float(optax.tree.norm(state.params))
    assert len({metrics["norm"] for _, metrics in seen if "norm" in metrics}) == 3


@pytest.mark.parametrize(
    ("said", "waited"), [("Gloo all-reduce failed: Connection closed by peer", 0), ("no such", 1)]
)
def test_who_lost_another_process_does_not_wait_for_its_part_of_a_checkpoint(
    tmp_path, monkeypatch, said, waited
):
    closed = []
    monkeypatch.setattr(Checkpoints, "close", lambda self: closed.append(self))

    class Lost(CopyTask):
        def __next__(self):
            raise ValueError(said)

    with pytest.raises(ValueError, match=said):
        run(tmp_path, 3, Lost())
    assert len(closed) == waited


def test_a_run_that_has_enough_ends_after_an_evaluation_and_stays_ended(tmp_path):
    found = []
    hooks = Hooks(
        evaluators=[Evaluator(lambda params: {}, period=2)],
        on_metrics=lambda step, _: found.append(step),
        has_enough=lambda: len(found) >= 2,
    )
    ended = run(tmp_path / "run", 9, hooks=hooks, checkpoint_period=3)
    assert found == [2, 4]
    assert steps_kept(tmp_path / "run") == {"3", "4"}
    assert_equal(ended, run(tmp_path / "whole", 4))
    assert_equal(run(tmp_path / "run", 9, hooks=hooks), ended)
    assert found[2:] == [4]  # this run remembers nothing of its evaluations


def test_who_has_enough_is_at_the_end_for_all_evaluators(tmp_path):
    """Those of other periods too; what was cut off there, or was not the end before, is made."""
    seen, known = [], []
    often = Evaluator(lambda params: {"often": 1.0}, period=2, tasks=["a"])
    last = Evaluator(lambda params: {"last": 1.0}, period=0, tasks=["b"])

    def on_metrics(step, metrics):
        seen.append((step, *metrics))
        known.append((step, {"often": "a", "last": "b"}.keys() & metrics.keys()))

    hooks = Hooks(
        evaluators=[often, last],
        is_evaluated=lambda step, tasks: any(s == step and len(tasks) <= len(m) for s, m in known),
        on_metrics=on_metrics,
        has_enough=lambda: len(seen) >= 2,
    )
    run(tmp_path / "run", 9, hooks=hooks)
    assert seen == [(2, "often"), (4, "often"), (4, "often", "last")]
    run(tmp_path / "run", 9, hooks=hooks)
    assert len(seen) == 3
    known.pop()
    run(tmp_path / "run", 9, hooks=hooks)
    assert seen[3:] == [(4, "often", "last")]
    known.pop()
    run(tmp_path / "run", 4, hooks=dataclasses.replace(hooks, has_enough=lambda: False))
    assert seen[4:] == [(4, "often", "last")]


def test_the_layout_of_parameters_and_of_a_batch_is_told(tmp_path, caplog):
    caplog.set_level("INFO", "recalign")
    state = run(tmp_path, 1)
    total = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert re.search(r"token_embedder/embedding .*float32\[32, 16\] .* 512\n", caplog.text)
    assert re.search(rf"total +{total:,}\n", caplog.text)
    assert re.search(r"encoder_input_tokens +int32\[8, 4\] +32\n", caplog.text)


@pytest.mark.parametrize("steps", [range(2, 4), range(3, 99), range(0)])
def test_some_steps_are_traced(tmp_path, steps):
    run(tmp_path, 4, profile=steps)
    traces = list((tmp_path / "plugins").rglob("*.xplane.pb"))
    assert len(traces) == (len(steps) > 0)
    with jax.profiler.trace(str(tmp_path / "other")):  # none is left running
        pass


@pytest.fixture
def logged(monkeypatch):
    """Scalars by their name and step."""
    found = {}

    class Writer(SummaryWriter):
        def add_scalar(self, name, value, step):
            found[name, step] = value

    monkeypatch.setattr(events, "SummaryWriter", Writer)
    return found


WARMING = learning_rate_schedule("constant * linear_warmup", 0.5, warmup_steps=4)


def test_the_rate_of_each_update_is_logged(tmp_path, logged):
    run(tmp_path, 3, subject=trainer(adafactor(WARMING)), log_period=1)
    rates = [logged["train/learning_rate", step] for step in (1, 2, 3)]
    assert rates == pytest.approx([1e-8, 0.125, 0.25])
    assert logged["train/tokens_per_sample", 1] == 8  # four of each side


def test_the_newest_checkpoints_and_the_best_one_are_kept(tmp_path):
    run(tmp_path, 6, checkpoint_period=1, best=lambda: 2)
    assert steps_kept(tmp_path) == {"2", "5", "6"}


class BrokenBatches(CopyTask):
    """Step 3's second row has a token whose embedding is infinite."""

    def __next__(self):
        batch = super().__next__()
        for tokens in batch.values():
            tokens[tokens == 31] = 30
        if self.position == 3:
            batch["encoder_input_tokens"] = batch["encoder_input_tokens"].copy()
            batch["encoder_input_tokens"][1] = 31
        return batch


def with_infinite_token(fresh):
    embedder = fresh.params["token_embedder"]
    broken = {"embedding": embedder["embedding"].at[31].set(np.inf)}
    return fresh.replace(params={**fresh.params, "token_embedder": broken})


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_rows(tmp_path):
    told = []

    def on_nonfinite(step, batch, rows):
        told.append((step, rows.tolist(), batch["encoder_input_tokens"][1].tolist()))
        return "Look there."

    hooks = Hooks(initial_state=with_infinite_token, on_nonfinite=on_nonfinite)
    with pytest.raises(UserError, match=r"not finite at step 3 \(rows \[1\]\)\. Look there"):
        run(
            tmp_path,
            20,
            BrokenBatches(),
            subject=trainer(optax.sgd(0.01)),
            log_period=5,
            hooks=hooks,
        )
    assert told == [(3, [1], [31] * 4)]


def test_a_skipped_batch_changes_nothing(tmp_path):
    hooks = Hooks(initial_state=with_infinite_token)
    options = {"subject": trainer(optax.sgd(0.01)), "hooks": hooks}
    before = run(tmp_path / "before", 2, BrokenBatches(), **options)
    after = run(tmp_path / "after", 3, BrokenBatches(), nonfinite="skip", **options)
    assert int(after.step) == 3
    assert_equal(after.replace(step=before.step), before)


@pytest.mark.parametrize("wrap", [lambda inner: inner, average_parameters])
def test_the_rate_is_that_of_the_updates_made_however_many_batches_were_skipped(
    tmp_path, logged, wrap
):
    # Not by the scale of a table that has an infinite row.
    subject = trainer(wrap(adafactor(WARMING, multiply_by_parameter_scale=False)))
    hooks = Hooks(initial_state=lambda fresh: subject.begin(with_infinite_token(fresh).params))
    task = BrokenBatches()
    run(tmp_path, 4, task, nonfinite="skip", log_period=1, subject=subject, hooks=hooks)
    run(tmp_path, 5, task, log_period=1, subject=subject)
    rates = [logged["train/learning_rate", step] for step in (1, 2, 3, 4, 5)]
    assert rates == pytest.approx([1e-8, 0.125, 0.125, 0.25, 0.375])


@pytest.mark.parametrize(
    "injure",
    [
        lambda files: files[-1].unlink(),
        lambda files: files[-1].write_bytes(files[-1].read_bytes()[:-5]),
        lambda files: files[-1].write_bytes(b"\0" * files[-1].stat().st_size),
    ],
    ids=["missing", "truncated", "overwritten"],
)
def test_a_damaged_checkpoint_is_told_of_and_the_one_before_is_used(tmp_path, caplog, injure):
    caplog.set_level("INFO", "recalign")
    whole = run(tmp_path / "whole", 9, checkpoint_period=3)
    run(tmp_path / "run", 6, checkpoint_period=3)
    files = [p for p in (tmp_path / "run/checkpoints/6").rglob("*") if p.is_file()]
    injure(sorted(files, key=lambda path: path.stat().st_size))
    again = run(tmp_path / "run", 9, checkpoint_period=3)
    assert "step 6 is damaged, trying the one before" in caplog.text
    assert "resumed at step 3" in caplog.text
    assert_equal(again, whole)
    assert steps_kept(tmp_path / "run") == {"6", "9", "damaged_6"}


def test_one_wrong_byte_anywhere_in_the_newest_checkpoint_is_noticed(tmp_path, caplog):
    run(tmp_path, 4, checkpoint_period=2)
    files = [p for p in (tmp_path / "checkpoints/4").glob("*/**/*") if p.is_file()]
    assert len(files) > 5
    for path in files:
        whole = path.read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 1} if whole else ():
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            caplog.clear()
            found = Checkpoints(tmp_path / "checkpoints", read_only=True)
            assert int(found.restore(trainer().abstract_state).step) == 2
            assert f"{path.name} is not what was written" in caplog.text
        path.write_bytes(whole)


def test_when_all_are_damaged_nothing_is_trained(tmp_path):
    run(tmp_path, 2)
    for path in (tmp_path / "checkpoints/2/state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged"):
        run(tmp_path, 3)


def test_a_full_disk_is_told_and_leaves_earlier_checkpoints_whole(tmp_path):
    class FullDisk(CopyTask):
        def save(self, filename):
            if self.position == 4:
                raise OSError(28, os.strerror(28), str(filename))
            super().save(filename)

    with pytest.raises(UserError, match="the disk is full, so the checkpoint at step 4"):
        run(tmp_path, 6, FullDisk(), checkpoint_period=2)
    resumed = run(tmp_path, 6, checkpoint_period=2)
    assert_equal(resumed, run(tmp_path / "whole", 6, checkpoint_period=2))


def test_sigterm_saves_a_checkpoint_and_the_run_can_go_on(tmp_path):
    class Terminating(CopyTask):
        def __next__(self):
            if self.position == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted):
        run(tmp_path / "run", 9, Terminating())
    assert signal.getsignal(signal.SIGTERM) == before
    assert steps_kept(tmp_path / "run") == {"5"}
    assert_equal(run(tmp_path / "run", 9), run(tmp_path / "whole", 9))


def test_sigterm_cuts_an_evaluation_off_which_is_made_up_for(tmp_path):
    seen = []

    def evaluate(params):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    with pytest.raises(Preempted):
        run(tmp_path, 9, hooks=Hooks(evaluators=[Evaluator(evaluate, 4)]))
    assert steps_kept(tmp_path) == {"4"}
    evaluator = Evaluator(lambda params: {}, 4)
    hooks = Hooks(evaluators=[evaluator], on_metrics=lambda step, _: seen.append(step))
    run(tmp_path, 9, hooks=hooks)
    assert seen == [4, 8, 9]


def test_restoring_another_model_or_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        Checkpoints(tmp_path / "empty").restore(trainer().abstract_state)
    run(tmp_path, 1)
    wider = trainer(config=dataclasses.replace(CONFIG, mlp_dim=32))
    with pytest.raises(UserError, match=r"mlp/wi_0/kernel: shape \(16, 16\).*\(16, 32\)"):
        run(tmp_path, 2, subject=wider)


def test_restoring_what_belongs_to_another_domain_is_an_error(tmp_path):
    run(tmp_path, 1, made_from={"vocabulary": "v", "domain toys": "a"})
    with pytest.raises(UserError, match="of another domain toys: a, where this run has b"):
        run(tmp_path, 2, made_from={"vocabulary": "v", "domain toys": "b"})


def test_a_batch_that_microbatches_do_not_divide_is_named(tmp_path):
    subject = dataclasses.replace(trainer(), num_microbatches=3)
    with pytest.raises(UserError, match="num_microbatches = 3 does not divide the 8 rows"):
        run(tmp_path, 1, subject=subject)


def test_the_loss_goes_down(tmp_path):
    losses = []
    subject = trainer()
    state, step = subject.init_state(), subject.step_fn()
    for _, batch in zip(range(150), CopyTask(), strict=False):
        state, sums = step(state, subject.partitioner.put_batch(batch))
        losses.append(float(sums["loss"] / sums["weights"]))
    assert np.mean(losses[:5]) > 3
    assert np.mean(losses[-10:]) < 2.9  # log(30) = 3.4 knows nothing of the input


def test_an_average_of_the_parameters_is_evaluated_saved_and_gone_on_with(tmp_path):
    def subject():
        return trainer(average_parameters(adafactor(0.05), decay=0.9))

    seen = []

    def evaluate(params):
        seen.append(jax.tree.leaves(params)[0])
        return {"m": 0.0}

    hooks = Hooks(evaluators=[Evaluator(evaluate, 3)])
    whole = run(tmp_path / "whole", 6, subject=subject(), hooks=hooks)
    np.testing.assert_array_equal(seen[-1], jax.tree.leaves(whole.params)[0])
    apart = jax.tree.map(
        lambda a, b: float(abs(a - b).max()), whole.params, whole.opt_state.trained
    )
    assert max(jax.tree.leaves(apart)) > 1e-4
    plain = run(tmp_path / "plain", 6)  # the same is trained
    jax.tree.map(np.testing.assert_array_equal, whole.opt_state.trained, plain.params)
    for steps in (3, 6):
        resumed = run(tmp_path / "cut", steps, subject=subject())
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    checkpoints = Checkpoints(tmp_path / "cut/checkpoints", read_only=True)
    _, params = checkpoints.restore_params(subject().abstract_state.params)
    jax.tree.map(np.testing.assert_array_equal, params, whole.params)


@pytest.mark.parametrize("average", [False, True])
def test_a_new_run_starts_from_the_state_it_is_given(tmp_path, average):
    def twice(params):
        return jax.tree.map(lambda leaf: 2 * leaf, params)

    subject = trainer(average_parameters(adafactor(0.05)) if average else None)
    hooks = Hooks(initial_state=lambda fresh: subject.begin(twice(fresh.params)))
    state = run(tmp_path, 0, subject=subject, hooks=hooks)
    wanted = twice(trainer().init_state().params)
    jax.tree.map(np.testing.assert_array_equal, state.params, wanted)
    trained = trained_parameters(state.params, state.opt_state)
    jax.tree.map(np.testing.assert_array_equal, trained, wanted)
