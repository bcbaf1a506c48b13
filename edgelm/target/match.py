"""Which target fits this machine best."""

from __future__ import annotations

import math
import os
from pathlib import Path

from edgelm.machine.host import ROOT, CpuInfo, MemoryInfo
from edgelm.target.target import Target, load_all


def best_target(cpu: CpuInfo, memory: MemoryInfo, *, android: bool = False) -> Target | None:
    """The board itself where its name is known; else the target for the CPU whose instructions this one has all of.

    Of those, one with the same core, then the one that uses the most instructions, then the nearest in memory.
    None where no target's instructions are all here, or this machine's are not known.
    """
    targets = [target for target in load_all() if target.cpu.arch == cpu.arch]
    for target in targets:
        if target.board and cpu.model and target.board.lower() in cpu.model.lower():
            return target
    if cpu.features is None:
        return None
    features = cpu.features
    fitting = [t for t in targets if t.runtime.provider == "cpu" and features.issuperset(t.cpu.features)]

    def rank(target: Target) -> tuple[bool, int, bool, float]:
        size = (memory.total or 2**32) / 2**20
        return (
            target.cpu.core == cpu.core,
            len(target.cpu.features),
            target.name.startswith("android") == android,
            -abs(math.log(target.memory.ram_mb / max(1.0, size))),
        )

    return max(fitting, key=rank, default=None)


def is_android(root: Path = ROOT) -> bool:
    """Android, also inside a Linux that runs on it."""
    return "ANDROID_ROOT" in os.environ or (root / "system/build.prop").exists()
