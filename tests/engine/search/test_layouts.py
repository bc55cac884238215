"""Every layout ranks, scores and generates as one device does; run on 8 simulated devices."""

import os
import subprocess
import sys
from pathlib import Path

# JAX fixes the number of simulated devices when it starts: hence a process of its own.
SCRIPT = """
import functools, math, re
import jax, jax.numpy as jnp, numpy as np
from recalign.engine.network.transformer import T5Config, Transformer
from recalign.engine.partitioning import Partitioner
from recalign.engine.search.catalogue_model import CatalogueModel
from recalign.engine.search.inference import Inference
from recalign.engine.search.retrieval import retrieve
from recalign.engine.search.trie import CatalogueIndex
from recalign.engine.training.adafactor import adafactor
from recalign.engine.training.hlo import find_collectives
from recalign.engine.training.model import EncoderDecoderModel
from recalign.engine.training.trainer import Trainer

config = T5Config(vocab_size=96, emb_dim=48, num_heads=4, num_encoder_layers=1,
                  num_decoder_layers=1, head_dim=8, mlp_dim=96, dropout_rate=0.0)
module = Transformer(config)
rng = np.random.default_rng(0)
items = sorted({tuple(rng.integers(2, 8, rng.integers(2, 4)).tolist()) for _ in range(60)})
catalogue = [(*item, 1) for item in items]
questions = [rng.integers(2, 96, length).astype(np.int32) for length in (3, 9, 5, 16, 2, 7, 11)]
offsets = np.arange(8) * 3
events = rng.integers(0, len(items), 21).astype(np.int32)
candidates = rng.integers(0, len(items), (7, 5)).astype(np.int32)

def trainer_of(partitioner):
    return Trainer(EncoderDecoderModel(module, adafactor(1e-3)), partitioner)

single = Partitioner(1, "replicated", jax.devices()[:1])
initial = jax.device_get(trainer_of(single).init_state().params)

def answers(partitioner):
    options = Inference(num_beams=6, batch_size=4, length_multiple=16, chunk=20,
                        scoring_batch_size=2)
    model = CatalogueModel(module, partitioner, catalogue, options)
    shapes = trainer_of(partitioner).abstract_state.params
    params = jax.device_put(initial, jax.tree.map(lambda leaf: leaf.sharding, shapes))
    return {
        "recommend": model.recommend(params, questions, np.split(events, offsets[1:-1]), 6),
        "exact": model.rank(params, questions, offsets, events, exact=True),
        "scores": model.score(params, questions, candidates),
        "generated": model.generate(params, questions, 4),
    }

one = answers(single)
# Three data partitions divide neither four rows nor two.
for partitions, rules, devices in [(2, "fully_sharded", 8), (4, "tensor_parallel", 8),
                                   (1, "fully_sharded", 3)]:
    many = answers(Partitioner(partitions, rules, jax.devices()[:devices]))
    for ours, theirs in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, err_msg=f"{partitions} {rules}")

# So many histories that activations are larger than anything else: none of all is on one device.
index = CatalogueIndex.build(catalogue)

def compile_search(partitions, rules, devices):
    partitioner = Partitioner(partitions, rules, jax.devices()[:devices])
    everywhere = partitioner.sharding()
    on_device = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), index)
    batch = partitioner.abstract_batch({
        "inputs": jax.ShapeDtypeStruct((64, 32), jnp.int32),
        "excluded": jax.ShapeDtypeStruct((64, 4), jnp.int32)})
    search = functools.partial(retrieve, module, num_beams=8)
    compiled = partitioner.compile(search, out_shardings=everywhere)
    variables = {"params": trainer_of(partitioner).abstract_state.params}
    lowered = compiled.lower(variables, batch["inputs"], on_device, exclusions=[batch["excluded"]])
    return lowered.compile().as_text()

def largest(hlo):
    shapes = re.findall(r"= (?:f32|s32|pred)\\[([\\d,]+)\\]", hlo)
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)

whole = largest(compile_search(1, "replicated", 1))
assert whole >= 64 * 4 * 32 * 32, whole
for layout in [(1, "fully_sharded", 8), (2, "fully_sharded", 8)]:
    program = compile_search(*layout)
    part = largest(program)
    assert part <= whole / 4, (layout, part, whole)
    # Logits [rows, beams, 96] stay where they are: what is gathered of the vocabulary are
    # parameters, [48, 96] and [96, 48].
    gathered = [array for one in find_collectives(program) if one.kind == "all-gather"
                for array in one.arrays if array.endswith(",96]")]
    assert all(array.count(",") == 1 for array in gathered), (layout, gathered)
"""


def test_every_layout_answers_as_one_device_and_splits_activations():
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
