"""What a text tells about a model: GPTQ, SmoothQuant, scales of the KV cache, the quality card."""
