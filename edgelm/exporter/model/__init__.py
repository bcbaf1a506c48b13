"""What a model is, as data, and its weights as a graph wants them."""
