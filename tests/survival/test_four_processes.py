"""Four processes that train as one: told to stop, killed, and gone on with by two.

And processes that evaluate as one, each of which has written its share of the examples.
"""

import functools
import json
import shutil
import sys
import time

import numpy as np
import pytest

from tests.survival.running import (
    AGAIN,
    WITH_TENSORFLOW,
    Process,
    assert_same_states,
    free_port,
    steps,
)

pytestmark = pytest.mark.long

STEPS = 48  # the signal takes a while to be agreed on
# A command like `recalign train`, of a network that compiles in no time.
PROGRAM = f"""
import json, pathlib, time
import click
from recalign import cli
from recalign.cli.options import multiprocess_options

@click.command()
@click.argument("folder")
@multiprocess_options
def small(folder):
    import numpy as np
    import optax
    from recalign.engine import processes
    from recalign.engine.network.transformer import T5Config, Transformer
    from recalign.engine.partitioning import Partitioner
    from recalign.engine.training.adafactor import adafactor
    from recalign.engine.training.checkpoints import Checkpoints
    from recalign.engine.training.loop import Evaluator, Hooks, train
    from recalign.engine.training.model import EncoderDecoderModel
    from recalign.engine.training.trainer import Trainer

    config = T5Config(vocab_size=8, emb_dim=8, num_heads=1, num_encoder_layers=1,
                      num_decoder_layers=1, head_dim=2, mlp_dim=2)
    # Steps so small that what devices round otherwise stays as small.
    model = EncoderDecoderModel(Transformer(config), adafactor(1e-3))
    trainer = Trainer(model, Partitioner(1, "fully_sharded"))
    held, own = trainer.partitioner.held_rows(8)

    class Rows:
        position = 0
        def __next__(self):
            time.sleep(0.2)
            self.position += 1
            random = np.random.default_rng(self.position)
            batch = {{name: random.integers(2, 8, (8, 4)).astype(np.int32) for name in (
                "encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")}}
            return {{name: values[held] for name, values in batch.items()}}
        def save(self, path):
            pathlib.Path(f"{{path}}_{{own[0]}}").write_text(str(self.position))
        def restore(self, path):
            found = {{file.read_text() for file in pathlib.Path(path).parent.glob("position_*")}}
            [self.position] = map(int, found)

    folder = pathlib.Path(folder)
    def on_metrics(step, metrics):
        if processes.is_first():
            with (folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({{"step": step, **metrics}}) + "\\n")
    measure = trainer.partitioner.compile(
        optax.tree.norm, out_shardings=trainer.partitioner.sharding())
    evaluator = Evaluator(lambda params: {{"norm": float(measure(params))}}, period=6)
    def evaluated(step, tasks):
        file = folder / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return any(json.loads(line)["step"] == step for line in lines)
    state = train(
        trainer=trainer, train_input=Rows(), model_dir=folder, total_steps={STEPS},
        checkpoints=Checkpoints(folder / "checkpoints", keep=None), checkpoint_period=4,
        hooks=Hooks(evaluators=[evaluator], is_evaluated=evaluated, on_metrics=on_metrics))
    return f"ended at step {{int(state.step)}}"

cli.recalign.add_command(small)
cli.main()
"""


def start(folder, count):
    folder.mkdir(exist_ok=True)
    return start_all([sys.executable, "-c", PROGRAM, "small", str(folder)], folder, count)


def start_all(command, folder, count):
    if count == 1:
        return [Process(command, folder)]
    address = f"127.0.0.1:{free_port()}"
    several = [*command, "--multiprocess", f"--coordinator_address={address}"]
    return [
        Process([*several, f"--process_count={count}", f"--process_index={index}"], folder)
        for index in range(count)
    ]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_four_are_told_to_stop_then_one_is_killed_and_two_go_on_to_the_numbers_of_one(tmp_path):
    [alone] = start(tmp_path / "one", 1)
    alone.end()

    folder = tmp_path / "several"
    told = start(folder, 4)
    told[0].wait_for(lambda: 4 in steps(folder))
    told[2].terminate()
    for process in told:
        assert "Traceback" not in process.end(AGAIN)
    stopped = steps(folder)[-1]
    assert 4 <= stopped < STEPS
    # Each process has written its part of the input's position.
    parts = list((folder / "checkpoints" / str(stopped) / "input").glob("position_*"))
    assert len(parts) == 4

    bereft = start(folder, 4)
    bereft[0].wait_for(lambda: steps(folder)[-1] > stopped)
    assert steps(folder)[-1] < STEPS
    bereft[1].kill()
    killed = time.monotonic()
    for process in (bereft[0], bereft[2], bereft[3]):
        said = process.end(1)
        assert "another of the 4 processes has ended" in said
        assert "Traceback" not in said
    assert time.monotonic() - killed < 100  # JAX's heartbeat

    for process in start(folder, 2):
        process.end()
    assert steps(folder)[-1] == STEPS
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    assert_same_states(folder, tmp_path / "one", STEPS, near)
    for found, expected in zip(metrics(folder), metrics(tmp_path / "one"), strict=True):
        assert found["step"] == expected["step"]
        near(found["norm"], expected["norm"])


def test_one_two_and_four_processes_evaluate_and_predict_alike(live, tmp_path):
    trained = tmp_path / "trained"
    [data_dir] = [word for word in live.arguments if word.startswith("--data_dir")]
    live.but("--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=0").finish(trained)

    def call(count, *words):
        folder = tmp_path / f"of_{count}"
        if not folder.exists():
            shutil.copytree(trained, folder)
        program = (sys.executable, "-c", WITH_TENSORFLOW)
        for process in start_all(
            [*program, *words, f"--model_dir={folder}", data_dir], folder, count
        ):
            process.end()
        return folder

    def outcomes(folder):
        [path] = (folder / "outcomes").glob("test-*.npz")
        with np.load(path) as found:
            return dict(found)

    alone, *others = (call(count, "eval", "--split=test") for count in (1, 2, 4))
    expected = outcomes(alone)
    assert len(expected["toyshop_retrieval/users"]) > 20
    for folder in others:
        found = outcomes(folder)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        one, other = (json.loads((f / "metrics.json").read_text()) for f in (folder, alone))
        assert one.keys() == other.keys()
        np.testing.assert_allclose([*one.values()], [*other.values()], rtol=1e-5)

    asked = ("infer", "--split=test", "--task=toyshop_ranking", f"--output={tmp_path}/out.jsonl")
    predicted = []
    for count in (1, 2):
        call(count, *asked)
        lines = (tmp_path / "out.jsonl").read_text().splitlines()
        predicted.append([json.loads(line) for line in lines])
        (tmp_path / "out.jsonl").unlink()
    for one, other in zip(*predicted, strict=True):
        assert (one["history"], one["target"], one["items"]) == (
            other["history"],
            other["target"],
            other["items"],
        )
        np.testing.assert_allclose(one["scores"], other["scores"], rtol=1e-4)
