"""Temperatures in °C: of thermal zones, else of the hardware monitors."""

from __future__ import annotations

from collections.abc import Mapping

from edgelm.machine.sensors.source import Missing, System

_PLAUSIBLE = (-40.0, 150.0)  # the rest are broken sensors, and zones that are switched off
_ELSEWHERE = ("battery", "batt", "charger", "chg", "skin", "wifi", "modem", "pmic", "usb", "nvme", "iwlwifi", "acpitz")


def temperatures(system: System) -> Mapping[str, float]:
    """The temperature of each zone of the processor by its name; of every zone where none says that it is one."""
    found = dict[str, float]()
    for zone in system.folders("sys/class/thermal/thermal_zone*"):
        _add(found, system.text(f"{zone}/type") or zone.rpartition("/")[2], system.number(f"{zone}/temp"))
    if not found:
        for file in system.folders("sys/class/hwmon/hwmon*/temp*_input"):
            folder, _, name = file.rpartition("/")
            chip = system.text(f"{folder}/name") or folder.rpartition("/")[2]
            label = system.text(f"{folder}/{name.replace('_input', '_label')}") or name.removesuffix("_input")
            _add(found, f"{chip} {label}", system.number(file))
    processor = {name: value for name, value in found.items() if not name.lower().startswith(_ELSEWHERE)}
    return processor or found


def hottest(zones: Mapping[str, float]) -> float | None:
    """The highest of them, or None."""
    return max(zones.values(), default=None)


def missing(system: System) -> Missing | None:
    """Why there is no temperature, or None."""
    return None if temperatures(system) else Missing("no thermal zone and no temperature sensor")


def _add(found: dict[str, float], name: str, milli: int | None) -> None:
    if milli is None or not _PLAUSIBLE[0] < milli / 1000 < _PLAUSIBLE[1]:
        return
    found[name] = max(milli / 1000, found.get(name, -1e9))
