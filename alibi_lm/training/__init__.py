"""Training: optimizers, the loop of updates, checkpoints, processes. Knows no run folder."""
