"""Layers that keep the keys and values of a window alone: what is in their buffers, and how far back one can go.

`GroupQueryAttention` with ``sliding_window_cache`` has room for C tokens, C >= W, its window. When the buffer is full it
evicts as many of the oldest as leave the window, C - W + 1 at a time, and moves the others to the front. So what a
buffer holds depends on the number of tokens alone, not on the pieces in which they were read (the operator's
documentation in onnxruntime 1.32, "Windowed KV Cache"), and tokens can be taken back for as long as none was evicted.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from edgelm.bundle.manifest import Graph

_COPIES = 16  # places whose windows or states are saved
_COPIES_BYTES = 32 << 20  # and in all: those of linear attention, and long windows, are large


@dataclass(frozen=True)
class Window:
    """How many tokens a layer sees, and has room for."""

    window: int
    capacity: int

    def evicted(self, tokens: int) -> int:
        """How many of `tokens` were evicted."""
        step = self.capacity - self.window + 1
        return max(0, math.ceil((tokens - self.capacity) / step)) * step

    def held(self, tokens: int) -> int:
        """How many of `tokens` are in the buffer."""
        return tokens - self.evicted(tokens)

    def room(self, tokens: int) -> int:
        """How many more can be read, and taken back at no cost."""
        return self.capacity + self.evicted(tokens) - tokens


def read_windows(graph: Graph) -> dict[int, Window]:
    """Layer number → its window, from a manifest's entry of the graph."""
    return {number: Window(facts.window, facts.capacity) for number, facts in (graph.windows or {}).items()}


def state_copies(size: int) -> int:
    """Of how many places states of `size` bytes are saved: one at least."""
    return max(1, min(_COPIES, _COPIES_BYTES // size))


def window_copies(size: int, capacity: int, context: int) -> int:
    """Of how many places windows are saved, as buffers take `size` bytes with room for `capacity` tokens: so many that
    they and the buffers take no more than about half of what the whole context would.
    """
    return min(_COPIES, _COPIES_BYTES // size, max(0, (context // capacity - 1) // 2)) if size else 0


def windows_bytes(windows: Collection[tuple[int, int]], tokens: int) -> int:
    """Bytes of windows, as (room for tokens, bytes of a token), in a context of so many tokens, and of their copies."""
    if not windows:
        return 0
    held = sum(min(tokens, capacity) * size for capacity, size in windows)
    full = sum(capacity * size for capacity, size in windows)
    return held + full * window_copies(full, max(capacity for capacity, _ in windows), tokens)
