"""A T5 with parameters and batches from a frozen random stream, for values computed by T5X.

`golden/t5x_case.npz` holds what T5X made of it (see `golden/make_t5x_case.py`). Both sides draw
the inputs themselves, so the file stays small.
"""

import numpy as np

CONFIG = {
    "vocab_size": 160,
    "emb_dim": 128,
    "num_heads": 4,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "head_dim": 32,
    "mlp_dim": 144,
    "mlp_activations": ("gelu", "linear"),
    "dropout_rate": 0.0,
}
Z_LOSS = 1e-4
LEARNING_RATE = 1e-3
STEPS = 5


def parameters(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """float32 values for parameters named 'encoder/…/kernel', at T5's initial scales."""
    stream = np.random.RandomState(0)
    params = {}
    for name, shape in sorted(shapes.items()):
        scale = shape[0] ** -0.5 if name.endswith("kernel") else 1.0
        if "query" in name:
            scale /= CONFIG["head_dim"] ** 0.5
        values = stream.standard_normal(shape) * scale
        params[name] = (1 + 0.1 * values if name.endswith("scale") else values).astype(np.float32)
    return params


def batch(seed: int, packed: bool = False) -> dict[str, np.ndarray]:
    """Four rows of 24 and 12 tokens with padding; packed, two segments in each row."""
    stream = np.random.RandomState(100 + seed)

    def tokens(length):
        rows = stream.randint(2, CONFIG["vocab_size"], (4, length)).astype(np.int32)
        return np.where(np.arange(length) < stream.randint(length // 2, length, (4, 1)), rows, 0)

    source, target = tokens(24), tokens(12)
    made = {
        "encoder_input_tokens": source,
        "decoder_input_tokens": np.pad(target, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": target,
        "decoder_loss_weights": (target > 0).astype(np.int32),
    }
    if packed:
        for feature, array, split in (("encoder", source, 7), ("decoder", target, 4)):
            positions = np.arange(array.shape[1])
            made[f"{feature}_segment_ids"] = np.where(array > 0, 1 + (positions >= split), 0)
            made[f"{feature}_positions"] = np.where(
                array > 0, np.where(positions < split, positions, positions - split), 0
            )
        made["decoder_input_tokens"][:, 4] = 0
    return made


def sample(params: dict[str, np.ndarray], count: int = 48) -> np.ndarray:
    """The same `count` entries of every parameter, float64[parameters, count]."""
    stream = np.random.RandomState(1)
    return np.stack(
        [
            np.asarray(value, np.float64).ravel()[stream.randint(0, np.size(value), count)]
            for _, value in sorted(params.items())
        ]
    )
