"""Checkpoints: where they come from, their config, their tensors a slice at a time."""
