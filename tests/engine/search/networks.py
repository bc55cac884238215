"""A network as small as can be, since what takes time in these tests is compiling it."""

from typing import Any

import jax
import jax.numpy as jnp

from recalign.engine.network.transformer import T5Config, Transformer


def make_network(num_decoder_layers: int, copy_gate: bool = False) -> tuple[Transformer, Any]:
    """The network, over 40 tokens, and its variables; a copy gate comes with weights."""
    config = T5Config(
        vocab_size=40,
        emb_dim=8,
        num_heads=2,
        head_dim=4,
        mlp_dim=16,
        num_encoder_layers=1,
        num_decoder_layers=num_decoder_layers,
        copy_gate=copy_gate,
        copy_weights=copy_gate,
    )
    module, one = Transformer(config), jnp.ones((1, 1), jnp.int32)
    init = jax.jit(lambda key: module.init(key, one, one, one, enable_dropout=False))
    return module, {"params": init(jax.random.key(0))["params"]}
