"""Training: the trainer, its loop, checkpoints and the folder of a run."""
