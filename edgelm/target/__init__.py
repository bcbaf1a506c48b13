"""A board, and how a model is stored for it."""
