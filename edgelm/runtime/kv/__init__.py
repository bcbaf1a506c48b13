"""The KV cache: buffers, windows, limits, and the file it is saved in."""
