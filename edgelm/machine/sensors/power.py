"""Power: the one source of a machine that is nearest to what all of it draws, or why there is none.

In this order: a meter of the user's own, a Raspberry Pi 5's PMIC, a Jetson's monitor of its input, another power sensor
of the hardware monitors, RAPL, a battery.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from edgelm.machine.sensors.battery import open_battery
from edgelm.machine.sensors.meter import Meter
from edgelm.machine.sensors.rapl import open_rapl
from edgelm.machine.sensors.source import Missing, System
from edgelm.machine.sensors.supply import PowerSource

# Labels of a Jetson's rails that carry all of the board, and those which together do (AGX Orin).
_INPUTS = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0_TOTAL")
_TOGETHER = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
_PARTS = re.compile(r"amdgpu|radeon|nouveau|nvidia|i915|xe|BAT\d*|ADP\d*|AC\d*|ucsi.*|nvme|iwlwifi.*", re.IGNORECASE)
_RAIL = re.compile(r"^\s*(\w+)_([AV])\s*(?:\w+\(\d+\))?\s*=\s*(\d+(?:\.\d+)?)[AV]?\s*$", re.MULTILINE | re.ASCII)


def open_power(system: System, meter: str | None = None) -> PowerSource | Missing:
    """The power source of a machine.

    Args:
        system: the machine.
        meter: a command that prints watts, see `Meter`.

    Raises:
        OptionError: the meter's command cannot be started.
    """
    if meter is not None:
        return Meter(meter).source()
    reasons = []
    openers: tuple[Callable[[System], PowerSource | Missing], ...] = (_pmic, _jetson, _hwmon, open_rapl, open_battery)
    for opener in openers:
        found = opener(system)
        if isinstance(found, PowerSource):
            return found
        reasons.append(found.reason)
    told = "; ".join(dict.fromkeys(filter(None, reasons)))
    return Missing(told or "no power sensor: give --power-meter COMMAND, which prints watts")


def _pmic(system: System) -> PowerSource | Missing:
    def read(_: float) -> float | None:
        return pmic_watts(system.run(["vcgencmd", "pmic_read_adc"]) or "")

    if read(0) is None:
        return Missing("")
    return PowerSource(
        "PMIC", "rails of the Raspberry Pi's PMIC; the supply gives about 1.145 times as much + 0.6 W", read
    )


def pmic_watts(text: str) -> float | None:
    """The sum of the rails that ``vcgencmd pmic_read_adc`` gives volts and amperes of; None where it gives none."""
    rails = dict[str, dict[str, float]]()
    for name, unit, value in _RAIL.findall(text):
        rails.setdefault(name, {})[unit] = float(value)
    whole = [rail["A"] * rail["V"] for rail in rails.values() if rail.keys() == {"A", "V"}]
    return sum(whole) if whole else None


@dataclass(frozen=True)
class _Channel:
    """A channel of an INA3221: millivolts times milliamperes."""

    system: System
    folder: str
    index: str

    def watts(self) -> float | None:
        """Watts now."""
        volts = self.system.number(f"{self.folder}/in{self.index}_input")
        amperes = self.system.number(f"{self.folder}/curr{self.index}_input")
        return None if volts is None or amperes is None else volts * amperes / 1e6


def _jetson(system: System) -> PowerSource | Missing:
    channels = dict[str, _Channel]()
    for label in system.folders("sys/class/hwmon/hwmon*/in[1-3]_label"):
        folder, _, name = label.rpartition("/")
        if system.text(f"{folder}/name") == "ina3221":
            channels[system.text(label) or ""] = _Channel(system, folder, name[2])
    if not channels:
        return Missing("")
    names = next(([name] for name in _INPUTS if name in channels), [n for n in _TOGETHER if n in channels])
    if len(names) not in (1, len(_TOGETHER)) or (len(names) == 1 and names[0] in _TOGETHER):
        return Missing(f"INA3221 has {', '.join(sorted(channels))}, and none of these rails carries the whole board")
    rails = [channels[name] for name in names]

    def read(_: float) -> float | None:
        watts = [rail.watts() for rail in rails]
        return None if None in watts else sum(w for w in watts if w is not None)

    if read(0) is None:
        return Missing(f"INA3221 gives no current of {' and '.join(names)}")
    return PowerSource("INA3221", f"the board's input, {' + '.join(names)}", read)


def _hwmon(system: System) -> PowerSource | Missing:
    found = dict[str, str]()  # what it is called -> file
    for pattern in ("power*_input", "power*_average"):
        for file in system.folders(f"sys/class/hwmon/hwmon*/{pattern}"):
            folder, _, name = file.rpartition("/")
            chip = system.text(f"{folder}/name") or folder.rpartition("/")[2]
            number = name.partition("_")[0]
            if _PARTS.fullmatch(chip) is None and system.number(file) is not None:
                label = system.text(f"{folder}/{number}_label") or number
                found.setdefault(f"{chip} {label}", file)
    whole = [name for name in found if re.search(r"total|system|psys|\bin\b", name, re.IGNORECASE)]
    chosen = whole or list(found)
    if len(chosen) > 1:
        return Missing(f"power sensors {', '.join(chosen)}: which is the whole board's is not known (--power-meter)")
    if not chosen:
        return Missing("")
    file = found[chosen[0]]

    def read(_: float) -> float | None:
        micro = system.number(file)
        return None if micro is None else abs(micro) / 1e6  # a shunt that was put in the wrong way round

    return PowerSource("hwmon", f"hardware monitor {chosen[0]}", read)
