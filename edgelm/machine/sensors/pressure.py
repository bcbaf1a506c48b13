"""Short memory: for how long tasks have waited for it, by the kernel's pressure stall information."""

from __future__ import annotations

import re

from edgelm.machine.sensors.source import Missing, System

_FILE = "proc/pressure/memory"


def stalled_seconds(system: System) -> float | None:
    """Seconds since boot in which some task waited for memory, or None."""
    match = re.search(r"^some .*\btotal=(\d{1,18})$", system.text(_FILE) or "", re.MULTILINE | re.ASCII)
    return int(match[1]) / 1e6 if match else None


def missing(system: System) -> Missing | None:
    """Why it cannot be told, or None."""
    if stalled_seconds(system) is not None:
        return None
    if system.exists(_FILE):
        return Missing("/proc/pressure/memory cannot be read: boot with psi=1")
    return Missing("this kernel has no pressure stall information")
