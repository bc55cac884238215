"""Writes t5x_case.npz. Needs T5X (github.com/google-research/t5x, commit cc342d4).

    python tests/engine/golden/make_t5x_case.py

The values in double precision come from the same T5X sources, with each `jnp.float32` in them read
as `jnp.float64`: T5X names float32 in its norms, losses and optimiser. They are there because
float32 does not determine the parameters after several steps: T5X compiled as one program and T5X
run operation by operation differ by a percent in some of them.
"""

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

sys.path.insert(0, str(Path(__file__).parents[1]))
import t5x_case as case

SOURCES = ("t5x.losses", "t5x.adafactor", "t5x.examples.t5.layers", "t5x.examples.t5.network")


def load_sources(double: bool):
    """T5X's modules, fresh from their sources."""
    for name in SOURCES:
        spec = importlib.util.find_spec(name)
        source = Path(spec.origin).read_text()
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, module)
        exec(source.replace("jnp.float32", "jnp.float64") if double else source, module.__dict__)
    return [sys.modules[name] for name in SOURCES]


def run(double: bool) -> dict[str, np.ndarray]:
    """Logits, losses and trained parameters in one precision, operation by operation."""
    losses, adafactor, _, network = load_sources(double)
    dtype = jnp.float64 if double else jnp.float32
    model = network.Transformer(network.T5Config(**case.CONFIG, dtype=dtype))

    def forward(params, batch):
        return model.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            encoder_segment_ids=batch.get("encoder_segment_ids"),
            decoder_segment_ids=batch.get("decoder_segment_ids"),
            enable_dropout=False,
        )

    def loss(params, batch):
        logits = forward(params, batch)
        total, z_loss, _ = losses.compute_weighted_cross_entropy(
            logits,
            batch["decoder_target_tokens"],
            weights=batch["decoder_loss_weights"],
            z_loss=case.Z_LOSS,
        )
        return total, (logits, z_loss)

    def flat(tree):
        return traverse_util.flatten_dict(tree, sep="/")

    ones = jnp.ones((1, 4), jnp.int32)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), ones, ones, ones, enable_dropout=False)["params"]
    )
    params = case.parameters({k: v.shape for k, v in flat(shapes).items()})
    params = traverse_util.unflatten_dict(
        {k: jnp.asarray(v, dtype) for k, v in params.items()}, sep="/"
    )
    out = {}
    for name, packed in (("unpacked", False), ("packed", True)):
        total, (logits, z_loss) = loss(params, case.batch(0, packed))
        out |= {f"{name}/loss": total, f"{name}/z_loss": z_loss, f"{name}/logits": logits}

    optimizer = adafactor.Adafactor(learning_rate=case.LEARNING_RATE, decay_rate=0.8, step_offset=0)
    state = optimizer.init_state(params)
    history = []
    for step in range(case.STEPS):
        (total, _), grads = jax.value_and_grad(loss, has_aux=True)(params, case.batch(step))
        params, state = optimizer.apply_gradient(optimizer.hyper_params, params, state, grads)
        history.append(float(total))
        if step in (0, case.STEPS - 1):
            out[f"params_after_{step + 1}"] = case.sample(flat(params))
    out["losses"] = np.array(history)
    return {k: np.asarray(v) for k, v in out.items()}


def main():
    single = run(double=False)
    jax.config.update("jax_enable_x64", True)
    double = run(double=True)
    keep = ("losses", "params_after_1", "params_after_5")
    np.savez_compressed(
        Path(__file__).with_name("t5x_case.npz"),
        **single,
        **{f"double/{name}": double[name] for name in keep},
    )


if __name__ == "__main__":
    main()
