"""A run without TensorFlow: a folder of tokens, written once and read by any process."""
