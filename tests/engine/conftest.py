"""The golden T5X model, and a tiny one that needs no file."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from recalign.engine.network.transformer import T5Config, Transformer


@pytest.fixture(scope="session")
def golden(shared) -> dict[str, np.ndarray]:
    """What T5X computed, by name."""
    return dict(np.load(shared / "golden/t5x/golden.npz"))


@pytest.fixture(scope="session")
def golden_model(shared) -> tuple[Transformer, dict]:
    """The model of `golden` and its parameters."""
    folder = shared / "golden/t5x"
    config = T5Config(**json.loads((folder / "meta.json").read_text())["config"])
    flat = dict(np.load(folder / "params.npz"))
    return Transformer(config), traverse_util.unflatten_dict(flat, sep="/")


@pytest.fixture(scope="session")
def optimised() -> dict[str, int]:
    """Compiler options of `jax.jit`: as T5X's programs were, whose sums are rounded less often."""
    return {"xla_backend_optimization_level": 1}


@pytest.fixture(scope="session")
def tiny_model() -> tuple[Transformer, dict]:
    """A model with random parameters, in which heads × head_dim is not emb_dim."""
    model = Transformer(
        T5Config(
            vocab_size=40,
            emb_dim=16,
            num_heads=3,
            head_dim=4,
            mlp_dim=24,
            num_encoder_layers=2,
            num_decoder_layers=2,
        )
    )
    tokens = jnp.ones((1, 4), jnp.int32)
    init = jax.jit(lambda key: model.init(key, tokens, tokens, tokens, enable_dropout=False))
    variables = init(jax.random.key(0))
    return model, variables["params"]


@pytest.fixture(scope="session")
def case() -> SimpleNamespace:
    """`t5x_case.py`: inputs for which `golden/t5x_case.npz` holds T5X's values."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("t5x_case.py"))))


@pytest.fixture(scope="session")
def case_golden() -> dict[str, np.ndarray]:
    """T5X's values for `case`."""
    return dict(np.load(Path(__file__).parent / "golden/t5x_case.npz"))


@pytest.fixture(scope="session")
def case_model(case) -> tuple[Transformer, dict]:
    """The model of `case` and its parameters."""
    model = Transformer(T5Config(**case.CONFIG))
    ones = jnp.ones((1, 4), jnp.int32)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), ones, ones, ones, enable_dropout=False)["params"]
    )
    shapes = {k: v.shape for k, v in traverse_util.flatten_dict(shapes, sep="/").items()}
    return model, traverse_util.unflatten_dict(case.parameters(shapes), sep="/")
