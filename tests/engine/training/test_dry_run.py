"""A dry run tells what the real step takes."""

import dataclasses
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from click.testing import CliRunner

from recalign.cli import recalign
from recalign.engine.network.transformer import T5Config, Transformer
from recalign.engine.partitioning import Partitioner
from recalign.engine.search.inference import Inference
from recalign.engine.training.adafactor import adafactor
from recalign.engine.training.dry_run import measure, measure_search, use_topology
from recalign.engine.training.model import EncoderDecoderModel
from recalign.engine.training.trainer import Trainer
from recalign.errors import UserError

CONFIG = T5Config(
    vocab_size=512,
    emb_dim=128,
    num_heads=4,
    num_encoder_layers=2,
    num_decoder_layers=2,
    head_dim=32,
    mlp_dim=256,
)


def test_sizes_are_those_of_the_state_and_flops_near_what_xla_counts():
    model = EncoderDecoderModel(Transformer(CONFIG), adafactor(1e-3))
    trainer = Trainer(model, Partitioner(devices=jax.devices()[:1]))
    lengths = {
        **{f"encoder_{name}": 64 for name in ("input_tokens", "segment_ids", "positions")},
        **{f"decoder_{name}": 16 for name in ("input_tokens", "target_tokens", "loss_weights")},
        **{f"decoder_{name}": 16 for name in ("segment_ids", "positions")},
    }
    sizes = measure(trainer, {name: (8, length) for name, length in lengths.items()})
    state = trainer.init_state()
    assert sizes.parameters == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert sizes.parameter_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    assert sizes.optimizer_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
    assert sizes.batch_bytes == 8 * (3 * 64 + 5 * 16) * 4
    assert sizes.temporary_bytes > sizes.parameter_bytes  # the gradients at least
    # XLA also counts what is not a matrix product, which weighs more in so small a network.
    assert sizes.device_flops == pytest.approx(sizes.model_flops, rel=0.25)


@pytest.mark.parametrize("renormalise", [False, True])
def test_a_search_is_measured_as_it_is_made(renormalise):
    module = Transformer(CONFIG)
    trainer = Trainer(
        EncoderDecoderModel(module, adafactor(1e-3)), Partitioner(devices=jax.devices()[:1])
    )
    options = Inference(num_beams=8, batch_size=4, length_multiple=64, renormalise=renormalise)
    sizes = measure_search(trainer, options, source=60)
    params = trainer.init_state().params
    assert sizes.parameter_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert (sizes.histories, sizes.source) == (4, 64)
    # With at most 8 beams and 10 children a prefix: 1 prefix, then 8 at each of three or four
    # depths, of which XLA counts the loop over the last ones once.
    assert sizes.temporary_bytes > 4 * 8 * 64 * 4 * 32  # a layer's keys for every history and beam
    assert sizes.device_flops < sizes.model_flops < 3 * sizes.device_flops
    whole = measure_search(trainer, dataclasses.replace(options, batch_size=8), source=60)
    assert whole.model_flops == 2 * sizes.model_flops
    assert whole.temporary_bytes > 1.5 * sizes.temporary_bytes


def test_the_command_needs_neither_data_nor_devices():
    arguments = ["train", "--dry_run", "--explain", "--topology=cpu:8", "--gin_file=toyshop.gin"]
    arguments.append("--gin.Partitioner.rules=fully_sharded")
    done = subprocess.run(
        [sys.executable, "-m", "recalign", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = {line[:20].rstrip(): line[20:] for line in done.stdout.splitlines()}
    assert lines["devices"] == "8 x cpu, mesh 8 data x 1 model"
    assert lines["parameters"] == "1,083,136"
    whole = float(lines["memory of a device"].split()[0])
    parts = ("  parameters", "  optimiser", "  batch", "  temporaries")
    parts = sum(float(lines[part].split()[0]) for part in parts)
    np.testing.assert_allclose(whole, parts, atol=0.002)
    assert lines["search"] == "64 histories of 256 tokens, 20 beams"
    whole = float(lines["memory of a search"].split()[0])
    parts = ("  its parameters", "  its index", "  its temporaries")
    parts = sum(float(lines[part].split()[0]) for part in parts)
    np.testing.assert_allclose(whole, parts, atol=0.002)
    assert float(lines["FLOPs of a search"]) > 0
    _, step, search = re.split("collectives of a (?:step|search): ", done.stdout)
    for program in (step, search):
        assert re.search(r"\d x all-gather over 8  f32\[.*encoder/layers_\*/mlp/", program)
        assert "largest temporaries of a " in program
    assert "transpose(jvp(" in step
    assert "transpose(jvp(" not in search


def test_a_topology_that_is_none_is_named():
    for topology in ("gpu:8", "cpu:0", "cpu:", "8"):
        with pytest.raises(UserError, match="cpu:N, or a TPU topology"):
            use_topology(topology)


@pytest.mark.parametrize("option", ["--topology=cpu:8", "--explain"])
def test_what_is_for_a_dry_run_is_an_error_without_one(option):
    result = CliRunner().invoke(recalign, ["train", option, "--gin_file=toyshop.gin"])
    assert isinstance(result.exception, UserError)
    assert f"{option.partition('=')[0]} is for --dry_run" in str(result.exception)
