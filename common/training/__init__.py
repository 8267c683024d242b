"""Epochs and what happens around them: hooks, checkpoints, resuming."""
