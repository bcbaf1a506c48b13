"""The heap of this process."""

from __future__ import annotations

import ctypes

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's


def give_back() -> None:
    """Return to the system what is free on the heap: glibc keeps it, and fragments of it for good."""
    if _trim is not None:
        _trim(0)
