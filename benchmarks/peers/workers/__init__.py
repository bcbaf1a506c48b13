"""One module an engine, each with a class `Engine` and a `version()`; they run in a process, and often a Python, of their own.

`Engine(path, threads, context)` opens a model. `forward(ids)` appends tokens and computes the last one's logits before
it returns. `logits()` gives them, float32 [vocabulary]. `rewind(position)` forgets the tokens from `position` on.
"""
