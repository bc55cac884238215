"""A run: its configuration and its folder, training, evaluation and ablations."""
