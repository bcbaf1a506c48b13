"""Which target fits this machine best."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

from edgelm.errors import TargetError
from edgelm.machine.host import ROOT, CpuInfo, MemoryInfo, read_cpu, read_memory
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


def target_here() -> Target:
    """The target that fits this machine best, with this machine's memory in place of the board's.

    Raises:
        TargetError: none does.
    """
    cpu, memory = read_cpu(), read_memory()
    found = best_target(cpu, memory, android=is_android())
    if found is None:
        raise TargetError(
            f"no target fits this {cpu.arch} machine",
            hint="make one: edgelm doctor --save myboard.toml; then: --target ./myboard.toml",
        )
    if memory.capacity is None:
        return found
    board, ram = found.memory, max(16, memory.capacity >> 20)
    usable = max(1, ram * board.usable_mb // board.ram_mb)  # the system takes the same share
    return replace(found, memory=replace(board, ram_mb=ram, usable_mb=usable))
