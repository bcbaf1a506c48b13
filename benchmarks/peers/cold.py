"""Files out of the page cache, so that a load reads them from the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

_DROP = Path("/proc/sys/vm/drop_caches")
_SAMPLES = 64  # pages of a file that are looked at


def evict(files: Sequence[Path], *, drop: bool) -> str:
    """Drop files from the page cache; no process may have them mapped.

    Args:
        files: what is dropped.
        drop: drop the whole machine's page cache too, where this process may.

    Returns:
        how: ``drop_caches`` or ``fadvise``.
    """
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())  # a page that is not written yet cannot be dropped
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if drop:
        try:
            _DROP.write_text("1\n")
            return "drop_caches"
        except OSError:  # not root, or a container
            pass
    return "fadvise"


def cached_share(files: Sequence[Path]) -> float | None:
    """Which share of the files, by bytes, is in the page cache, from a sample; None where the file system does not tell."""
    size = cached = 0.0
    for file in files:
        length = file.stat().st_size
        share = _share(file, length)
        if share is None:
            return None
        size, cached = size + length, cached + share * length
    return cached / size if size else None


def _share(file: Path, length: int) -> float | None:
    found, offsets = 0, range(0, length, max(4096, length // _SAMPLES))
    with file.open("rb", buffering=0) as opened:
        for offset in offsets:
            try:
                os.preadv(opened.fileno(), [bytearray(1)], offset, os.RWF_NOWAIT)
                found += 1
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    return None
    return found / len(offsets) if len(offsets) else 0.0
