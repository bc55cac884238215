"""Training: the loop, the step, losses, optimiser, schedules and checkpoints."""
