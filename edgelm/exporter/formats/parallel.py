"""Work on a stream of pieces with all cores, in order, holding only a few of them at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

# Rows that are worked on at once; not a share of the cores', since a bundle must not depend on their number.
_SLICE = 512

A = TypeVar("A")
B = TypeVar("B")


def ordered_map(work: Callable[[A], B], pieces: Iterable[A], workers: int | None = None) -> Iterator[B]:
    """``map(work, pieces)`` on threads (numpy releases the GIL while it computes).

    At most one piece more than there are workers is held at a time.
    """
    workers = workers or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[B]] = deque()
        try:
            for piece in pieces:
                waiting.append(pool.submit(work, piece))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def in_slices(work: Callable[[np.ndarray], Mapping[str, np.ndarray]], rows: np.ndarray) -> Mapping[str, np.ndarray]:
    """``work(rows)`` [n, k], where rows do not depend on each other, by slices of them; each array it gives has n rows."""
    pieces = [rows[start : start + _SLICE] for start in range(0, len(rows), _SLICE)]
    if len(pieces) < 2:
        return work(rows)
    found = list(ordered_map(work, pieces))
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}
