"""All sensors of a machine, opened once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgelm.machine.host import ROOT
from edgelm.machine.sensors import heat, pressure
from edgelm.machine.sensors.clock import Clocks, open_clocks
from edgelm.machine.sensors.power import open_power
from edgelm.machine.sensors.source import Missing, System
from edgelm.machine.sensors.supply import PowerSource
from edgelm.machine.sensors.throttle import Throttle, open_throttle


@dataclass(frozen=True)
class Sensors:
    """What a machine can tell of itself; where it cannot, the reason stands in place of the reader."""

    system: System
    power: PowerSource | Missing
    clocks: Clocks | Missing
    throttle: Throttle | Missing
    heat: Missing | None
    pressure: Missing | None

    @property
    def missing(self) -> Mapping[str, str]:
        """Why what is missing is."""
        found = {
            "power": self.power,
            "temperature": self.heat,
            "clock": self.clocks,
            "throttling": self.throttle,
            "memory pressure": self.pressure,
        }
        return {name: what.reason for name, what in found.items() if isinstance(what, Missing)}

    def close(self) -> None:
        """End what was started."""
        if isinstance(self.power, PowerSource):
            self.power.close()


def open_sensors(root: Path = ROOT, *, meter: str | None = None) -> Sensors:
    """The sensors of this machine, or of the one whose files lie under `root`.

    Args:
        root: see `System.of`.
        meter: a command that prints watts.

    Raises:
        OptionError: the meter does not work.
    """
    system = System.of(root)
    return Sensors(
        system=system,
        power=open_power(system, meter),
        clocks=open_clocks(system),
        throttle=open_throttle(system),
        heat=heat.missing(system),
        pressure=pressure.missing(system),
    )
