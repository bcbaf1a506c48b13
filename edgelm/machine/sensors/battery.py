"""A battery that is being emptied: its current, whose unit and sign differ from phone to phone, or its power.

Android's current_now is microamperes by the book, milliamperes on some phones, and negative or positive while
discharging. So every reading is held against the charge counter: what left the battery by it, between two of its steps,
must be what the current sums up to. Where that fits neither unit, no figure is given.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from edgelm.machine.sensors.source import Missing, System
from edgelm.machine.sensors.supply import PowerSource

_SUPPLIES = "sys/class/power_supply/*"
_FIT = 1.6  # how far current and counter may differ
_HOUR = 3600.0


@dataclass
class Battery:
    """Readings of a battery, and what they amount to.

    Attributes:
        system, folder: where it is.
        flow: the file of its current (µA or mA) or power (µW).
        stock: the file of what is left in it (µAh or µWh).
        readings: seconds, flow and stock as they stand in the files.
    """

    system: System
    folder: str
    flow: str
    stock: str
    readings: list[tuple[float, int, int]] = field(default_factory=list)
    plugged: bool = False

    def read(self, now: float) -> float | None:
        """Watts, if its current is in microamperes and positive; `check` tells the factor that it is wrong by."""
        flow, stock = (
            self.system.number(f"{self.folder}/{self.flow}"),
            self.system.number(f"{self.folder}/{self.stock}"),
        )
        self.plugged = self.plugged or self.system.text(f"{self.folder}/status") != "Discharging"
        volts = 1.0 if self.flow == "power_now" else _volts(self.system.number(f"{self.folder}/voltage_now"))
        if flow is None or stock is None or volts is None:
            return None
        self.readings.append((now, flow, stock))
        return flow / 1e6 * volts

    def check(self) -> float | Missing:
        """1 or 1,000 with the sign that makes emptying positive, by the counter; or why neither fits."""
        if self.plugged:
            return Missing("the battery was charging: unplug it")
        steps = [i for i in range(1, len(self.readings)) if self.readings[i][2] != self.readings[i - 1][2]]
        if len(steps) < 2:
            return Missing(
                f"the battery's {self.stock} moved less than twice, so its unit is not known: measure for longer"
            )
        first, last = steps[0], steps[-1]
        used = self.readings[first][2] - self.readings[last][2]
        if used <= 0:
            return Missing(f"the battery's {self.stock} went up while it was emptied")
        window = self.readings[first : last + 1]
        flowed = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(window)) / _HOUR
        for unit in (1.0, 1000.0):
            if flowed and 1 / _FIT < used / (abs(flowed) * unit) < _FIT:
                return unit if flowed > 0 else -unit
        return Missing(f"the battery's {self.flow} and {self.stock} do not agree in any unit")


def open_battery(system: System) -> PowerSource | Missing:
    """The battery of a phone or a laptop, if it is being emptied."""
    for folder in system.folders(_SUPPLIES):
        if (system.text(f"{folder}/type") or "").lower() != "battery" or system.text(f"{folder}/scope") == "Device":
            continue  # a mouse's battery is another matter
        if system.text(f"{folder}/status") != "Discharging":
            return Missing("the battery is not being emptied: unplug it")
        for flow, stocks in (("current_now", ("charge_counter", "charge_now")), ("power_now", ("energy_now",))):
            stock = next((name for name in stocks if system.number(f"{folder}/{name}") is not None), None)
            if stock is not None and system.number(f"{folder}/{flow}") is not None:
                battery = Battery(system, folder, flow, stock)
                if battery.read(0) is None:
                    return Missing("the battery does not tell its voltage")
                battery.readings.clear()
                return PowerSource(
                    "battery", "what the battery gives, screen included", battery.read, check=battery.check
                )
        return Missing("the battery has no charge counter to check its current by, or it may not be read")
    return Missing("")


def _volts(value: int | None) -> float | None:
    """Microvolts by the book, millivolts or volts on some devices: a battery has 2 to 60 V, so that it shows."""
    return next((value / unit for unit in (1e6, 1e3, 1.0) if value is not None and 2 <= value / unit <= 60), None)
