"""How much of this machine's processors other programs take, while one measures."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from edgelm.machine.host import ROOT, read_text

_SHORTEST = 0.05  # seconds that tell something: the kernel counts in hundredths
_IDLE = (3, 4)  # of /proc/stat: idle, and waiting for a disk
_GUESTS = 8  # from there on times stand that are counted already


@dataclass(frozen=True)
class Others:
    """A beginning; `cpus` tells what has happened since.

    Attributes:
        at: seconds of a clock.
        busy: seconds that all processors had worked by then, or None.
        own: seconds that this process had.
        root: under which /proc lies.
    """

    at: float
    busy: float | None
    own: float
    root: Path

    @classmethod
    def watch(cls, root: Path = ROOT) -> Others:
        """From now on."""
        times = os.times()
        return cls(time.monotonic(), _busy(root), times.user + times.system, root)

    def cpus(self) -> float | None:
        """How many processors' time others took since the beginning, what a host took away included; None where the kernel
        does not tell, or it was too short.
        """
        now = Others.watch(self.root)
        seconds = now.at - self.at
        if seconds < _SHORTEST or now.busy is None or self.busy is None:
            return None
        return max(0.0, (now.busy - self.busy) - (now.own - self.own)) / seconds


def _busy(root: Path) -> float | None:
    """Seconds since boot that all processors have worked."""
    line = (read_text(root / "proc/stat") or "").partition("\n")[0].split()
    if line[:1] != ["cpu"] or len(line) < 5 or not all(word.isdecimal() for word in line[1:]):
        return None
    counted = [int(word) for word in line[1:]][:_GUESTS]
    return sum(ticks for i, ticks in enumerate(counted) if i not in _IDLE) / os.sysconf("SC_CLK_TCK")
