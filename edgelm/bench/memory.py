"""What memory this process has taken, as the kernel counts it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgelm.machine.host import ROOT, read_text


@dataclass(frozen=True)
class MemoryUse:
    """Bytes; None where the kernel does not tell.

    Attributes:
        peak: the most that was resident at once (VmHWM); weights mapped from the file are part of it.
        anonymous: what is resident now and belongs to no file, so that it cannot be dropped when memory is short.
    """

    peak: int | None
    anonymous: int | None


def memory_use(root: Path = ROOT) -> MemoryUse:
    """The memory of this process, read from /proc under `root`."""
    status = read_text(root / "proc/self/status") or ""
    rollup = read_text(root / "proc/self/smaps_rollup") or ""
    anonymous = _kib(rollup, "Anonymous")
    return MemoryUse(_kib(status, "VmHWM"), _kib(status, "RssAnon") if anonymous is None else anonymous)


def _kib(text: str, key: str) -> int | None:
    match = re.search(rf"^{key}:\s+(\d{{1,15}}) kB$", text, re.MULTILINE | re.ASCII)
    return int(match[1]) * 1024 if match else None
