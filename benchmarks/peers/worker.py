"""A process that runs one engine: a line of JSON on stdin asks, a line of JSON on stdout answers.

    python -m benchmarks.peers.worker on_llama

The first line it writes says that the engine's library is imported. Then, one at a time:

    {"do": "load", "path": …, "threads": 2, "context": 2304}   → seconds until the first logits, opened_seconds without them,
                                                                  files it has made for itself
    {"do": "prefill", "ids": […]}                              → seconds of the prompt, ttft_seconds with the greedy choice, token
    {"do": "decode", "before": […], "ids": […]}                → seconds of one pass an id, after the untimed ones before; token
    {"do": "greedy", "ids": […], "count": 16}                  → tokens
    {"do": "logits", "ids": […], "file": "logits.npy"}         → token; the last position's logits in the file
    {"do": "memory"}                                           → peak, anonymous: bytes
    {"do": "quit"}

What fails answers {"error": …}. It needs no package but the engine's and numpy.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from typing import Any

_CHUNK = 512  # tokens of one pass of what is not timed
_PR_SET_PDEATHSIG = 1


class Server:
    """Answers requests with one engine."""

    def __init__(self, make: Callable[[str, int, int], Any]) -> None:
        self._make = make
        self._engine: Any = None
        self._held: list[int] = []  # ids in the engine's cache

    def load(self, path: str, threads: int, context: int) -> dict[str, Any]:
        start = time.perf_counter()
        self._engine = self._make(path, threads, context)
        opened = time.perf_counter() - start
        self._forward([1])  # weights that are mapped lazily are read by the first pass
        self._engine.logits()
        seconds = time.perf_counter() - start
        self._rewind(0)
        return {"seconds": seconds, "opened_seconds": opened, "files": getattr(self._engine, "files", [])}

    def prefill(self, ids: list[int]) -> dict[str, Any]:
        self._wake([])
        start = time.perf_counter()
        self._forward(ids)
        seconds = time.perf_counter() - start
        token = self._token()
        return {"seconds": seconds, "ttft_seconds": time.perf_counter() - start, "token": token}

    def decode(self, before: list[int], ids: list[int]) -> dict[str, Any]:
        self._wake(before)
        forward = self._engine.forward
        start = time.perf_counter()
        for token in ids:
            forward([token])
        seconds = time.perf_counter() - start
        self._held += ids
        return {"seconds": seconds, "token": self._token()}

    def greedy(self, ids: list[int], count: int) -> dict[str, Any]:
        self._fill([])
        self._forward(ids)
        tokens = [self._token()]
        while len(tokens) < count:
            self._forward(tokens[-1:])
            tokens.append(self._token())
        return {"tokens": tokens}

    def logits(self, ids: list[int], file: str) -> dict[str, Any]:
        import numpy as np

        self._fill([])
        self._forward(ids)
        np.save(file, self._engine.logits())
        return {"token": self._token()}

    def memory(self) -> dict[str, Any]:
        from edgelm.bench.memory import memory_use

        return asdict(memory_use())

    def quit(self) -> dict[str, Any]:
        raise SystemExit

    def _forward(self, ids: list[int]) -> None:
        self._engine.forward(ids)
        self._held += ids

    def _token(self) -> int:
        return int(self._engine.logits().argmax())

    def _wake(self, ids: list[int]) -> None:
        """Hold just these tokens, after a pass that brings threads and caches back from another engine's turn."""
        self._fill(ids)
        self._forward([1])
        self._rewind(len(ids))

    def _fill(self, ids: list[int]) -> None:
        """Hold just these tokens; what is held of them already is kept."""
        kept = len(ids) if self._held[: len(ids)] == ids else 0
        self._rewind(kept)
        for start in range(kept, len(ids), _CHUNK):
            self._forward(ids[start : start + _CHUNK])

    def _rewind(self, position: int) -> None:
        if position < len(self._held):
            self._engine.rewind(position)
            del self._held[position:]


def main() -> None:
    _die_with_parent()
    # Libraries print to stdout as they please: answers go where only this module writes.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(facts: dict[str, Any]) -> None:
        answers.write(json.dumps(facts) + "\n")

    try:
        start = time.perf_counter()
        module = import_module(f"benchmarks.peers.workers.{sys.argv[1]}")
        server = Server(module.Engine)
        answer({"version": module.version(), "import_seconds": time.perf_counter() - start})
        for line in sys.stdin:
            request = json.loads(line)
            answer(getattr(server, request.pop("do"))(**request))
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        answer({"error": f"{type(error).__name__}: {lines[0]}"})
        raise


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
