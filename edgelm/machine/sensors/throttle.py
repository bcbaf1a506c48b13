"""Whether the processor is being slowed down now, and by what."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from edgelm.machine.sensors.source import Missing, System

# Bits of the Raspberry Pi's get_throttled; the same 16 places higher: it has happened since boot.
FIRMWARE_BITS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
FIRMWARE_FILE = "sys/devices/platform/soc/soc:firmware/get_throttled"


def firmware_bits(system: System) -> int | None:
    """The bits of a Raspberry Pi's firmware, from sysfs or its program; None on other machines."""
    text = system.text(FIRMWARE_FILE)
    if text is None:
        match = re.fullmatch(r"throttled=(0x[0-9a-fA-F]{1,8})", system.run(["vcgencmd", "get_throttled"]) or "")
        text = match[1] if match else None
    try:
        return int(text or "", 16)
    except ValueError:
        return None


def named(bits: int) -> tuple[list[str], list[str]]:
    """What those bits say: of now, and of earlier since boot alone."""
    now = [name for bit, name in FIRMWARE_BITS.items() if bits >> bit & 1]
    earlier = [name for bit, name in FIRMWARE_BITS.items() if bits >> (bit + 16) & 1]
    return now, [name for name in earlier if name not in now]


@dataclass
class Throttle:
    """The ways in which a machine tells that it is slowed down; a reading names those that say so now."""

    ways: list[Callable[[], list[str]]] = field(default_factory=list)

    def read(self) -> frozenset[str]:
        """What slows the processor down now, or did since the reading before; empty where nothing does."""
        return frozenset(cause for way in self.ways for cause in way())


def open_throttle(system: System) -> Throttle | Missing:
    """What this machine has of: the Pi's firmware, the kernel's cooling of cpufreq, x86's counters, a falling cap."""
    ways = list[Callable[[], list[str]]]()
    if firmware_bits(system) is not None:
        ways.append(lambda: named(firmware_bits(system) or 0)[0])
    if devices := [path for path in system.folders("sys/class/thermal/cooling_device*") if _slows(system, path)]:
        ways.append(lambda: ["heat (kernel)"] if any(system.number(f"{d}/cur_state") for d in devices) else [])
    counters = [
        path
        for kind in ("package_throttle_count", "core_throttle_count")
        for path in system.folders(f"sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/{kind}")
    ]
    if counters:
        ways.append(_Counters(system, counters))
    caps = {
        path: cap
        for path in system.folders("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_max_freq")
        if (cap := system.number(path))
    }
    if caps:
        ways.append(lambda: ["clock cap lowered"] if any((system.number(p) or c) < c for p, c in caps.items()) else [])
    return Throttle(ways) if ways else Missing("no firmware, cooling device or counter tells of throttling")


def _slows(system: System, device: str) -> bool:
    kind = (system.text(f"{device}/type") or "").lower()
    return "cpufreq" in kind or kind == "processor"


@dataclass
class _Counters:
    """Counters of throttling that went up since the last reading."""

    system: System
    paths: list[str]
    before: list[int | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.before = self._read()

    def __call__(self) -> list[str]:
        now, before = self._read(), self.before
        self.before = now
        return (
            ["heat (processor)"]
            if any(a is not None and b is not None and a > b for a, b in zip(now, before, strict=True))
            else []
        )

    def _read(self) -> list[int | None]:
        return [self.system.number(path) for path in self.paths]
