"""The text plane: SeqIO tasks over prepared domains, and what the engine is fed from them."""

import tensorflow as tf
import tensorflow_text  # noqa: F401 (registers the tokeniser's ops)

# TensorFlow only reads data here, and must leave a GPU's memory to JAX.
tf.config.set_visible_devices([], "GPU")
