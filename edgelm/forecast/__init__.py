"""The time and memory a model takes on a target, before it is there."""
