"""How fast this machine reads memory: the upper limit of decode, which reads every weight once a token."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

_LARGEST = 256 << 20  # well beyond the caches of every board
_SMALLEST = 16 << 20


def read_bandwidth(threads: int, available: int | None = None, *, seconds: float = 2.0) -> float | None:
    """GB/s (10**9 bytes) read by `threads` threads together; the best of the passes made in about `seconds`.

    Takes at most 256 MB, and a quarter of the `available` bytes; None where that is too little to tell.
    A pass is numpy's maximum over 32-bit integers, one vector instruction a load; numpy releases the GIL
    meanwhile.
    """
    import numpy as np

    size = min(_LARGEST, (available if available is not None else _LARGEST * 4) // 4)
    if size < _SMALLEST:
        return None
    try:
        # Every page is written: untouched ones would all be the same page of zeros.
        parts = [np.ones(size // 4 // threads, dtype=np.int32) for _ in range(threads)]
    except MemoryError:
        return None
    best, end = 0.0, time.perf_counter() + seconds
    with ThreadPoolExecutor(threads) as pool:
        while (start := time.perf_counter()) < end:
            list(pool.map(np.max, parts))
            best = max(best, sum(part.nbytes for part in parts) / (time.perf_counter() - start))
    return best / 1e9
