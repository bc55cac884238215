"""The smallest T5: for tests of what is kept of a network, not of what it computes."""

from recalign.engine.network.config import T5Config

CONFIG = T5Config(
    vocab_size=8,
    emb_dim=2,
    num_heads=1,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=2,
    mlp_dim=2,
)
