"""T5: its configuration and parameters, and the Flax modules."""
