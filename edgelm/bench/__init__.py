"""Speed and memory of a bundle on this machine, by llama-bench's definitions."""
