"""Decode several texts at once through llama.cpp's ``llama_batch``; run by benchmarks/batch.py in a Python that has
llama-cpp-python. Reads a line of JSON for each measurement, {"rows", "depth", "tokens"}, and answers with the seconds of
the clock and of its processor.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import llama_cpp as llama


def read(context: Any, rows: int, first: int, count: int, *, logits: bool) -> None:
    """`count` tokens of each of `rows` texts, from position `first` on, in one batch."""
    batch = llama.llama_batch_init(rows * count, 0, 1)
    batch.n_tokens = rows * count
    for index in range(rows * count):
        row, step = divmod(index, count)
        batch.token[index], batch.pos[index] = 100 + (index * 37) % 10_000, first + step
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, row
        batch.logits[index] = logits
    if llama.llama_decode(context, batch):
        raise SystemExit("llama_decode failed")
    if logits:
        llama.llama_get_logits_ith(context, rows * count - 1)  # what was computed is waited for
    llama.llama_batch_free(batch)


def main(model: str, threads: int, most: int, length: int) -> None:
    """Answer until the input ends."""
    llama.llama_backend_init()
    loaded = llama.llama_model_load_from_file(model.encode(), llama.llama_model_default_params())
    options = llama.llama_context_default_params()
    options.n_ctx, options.n_seq_max, options.n_batch = length * most, most, 2048
    options.n_threads = options.n_threads_batch = threads
    options.flash_attn_type = 1
    context = llama.llama_init_from_model(loaded, options)
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        rows, depth, tokens = asked["rows"], asked["depth"], asked["tokens"]
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        for start in range(0, depth, 64):
            read(context, rows, start, min(64, depth - start), logits=False)
        read(context, rows, depth, 1, logits=True)
        started, worked = time.perf_counter(), time.process_time()
        for step in range(tokens):
            read(context, rows, depth + 1 + step, 1, logits=True)
        print(time.perf_counter() - started, time.process_time() - worked, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
