"""Parameter trees as checkpoints to read again."""

import numpy as np
from flax import traverse_util

from recalign.engine.network.config import recognise
from recalign.engine.weights.conversion import Weights, write_weights
from recalign.engine.weights.tensor import Tensor


def save_params(params: dict, path, to: str) -> None:
    """Writes nested dictionaries of arrays, under T5X's names, as a checkpoint."""
    flat = traverse_util.flatten_dict(params, sep="/")
    tensors = {name: Tensor.of(np.asarray(value)) for name, value in flat.items()}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    write_weights(Weights("", tensors, recognise(shapes, "the tree")), str(path), to)
