"""The tensor plane: network, losses, optimiser, decoding, checkpoints. No TensorFlow."""
