"""GGUF files, llama.cpp's form of a model: weights, configuration and tokenizer in one, or split into several."""
