"""RAPL: what an x86-64 processor and its memory have used, in counters of microjoules that wrap."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgelm.machine.sensors.source import Missing, System
from edgelm.machine.sensors.supply import PowerSource

_ZONES = "sys/class/powercap/intel-rapl*:*"  # AMD's processors have the same name there
_WIDEST = 1 << 32  # where max_energy_range_uj is missing: the register has 32 bits


@dataclass
class _Zone:
    """One counter, unwrapped."""

    system: System
    folder: str
    before: int | None = None
    total: int = 0
    range: int = field(init=False)

    def __post_init__(self) -> None:
        self.range = self.system.number(f"{self.folder}/max_energy_range_uj") or _WIDEST
        self.before = self.system.number(f"{self.folder}/energy_uj")

    def microjoules(self) -> int | None:
        """Since it was opened. The counter wraps in minutes, and is read twice a second: once at most between two."""
        now = self.system.number(f"{self.folder}/energy_uj")
        if now is None or self.before is None:
            return None
        self.total += now - self.before + (self.range if now < self.before else 0)
        self.before = now
        return self.total


def open_rapl(system: System) -> PowerSource | Missing:
    """The packages and their memory, or ``psys``, all of the machine, where the processor tells of it."""
    names = {folder: system.text(f"{folder}/name") or "" for folder in system.folders(_ZONES)}
    whole = [folder for folder, name in names.items() if name == "psys"]
    parts = [folder for folder, name in names.items() if name.startswith("package") or name == "dram"]
    chosen = whole or parts
    if not chosen:
        return Missing("")
    zones = [_Zone(system, folder) for folder in chosen]
    if any(zone.before is None for zone in zones):
        return Missing("RAPL is for root alone: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj")

    def read(_: float) -> float | None:
        counted = [zone.microjoules() for zone in zones]
        return None if None in counted else sum(value for value in counted if value is not None) / 1e6

    told = "the whole machine (psys)" if whole else " + ".join(names[folder] for folder in chosen)
    return PowerSource("RAPL", f"{told}, not the power supply's loss", read, counts=True)
