"""What slows a processor down while it runs: the governor, a capped clock, heat, a weak power supply."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgelm.machine.host import ROOT, read_int, read_text
from edgelm.machine.sensors.source import System
from edgelm.machine.sensors.throttle import firmware_bits, named


def governors(root: Path = ROOT) -> frozenset[str]:
    """The frequency governors in use; empty where the clock is not ours to see (virtual machines)."""
    return frozenset(filter(None, (read_text(folder / "scaling_governor") for folder in _cpufreq(root))))


def scales_by_hardware(root: Path = ROOT) -> bool:
    """The processor picks its own clock; its "powersave" governor is then the normal one and not slow."""
    drivers = {read_text(folder / "scaling_driver") for folder in _cpufreq(root)}
    return bool(drivers & {"intel_pstate", "amd-pstate-epp", "amd_pstate_epp"})


def capped_clock(root: Path = ROOT) -> tuple[int, int] | None:
    """(allowed, possible) kHz of the core whose clock is capped the most, or None where none is."""
    caps = []
    for folder in _cpufreq(root):
        allowed, possible = read_int(folder / "scaling_max_freq"), read_int(folder / "cpuinfo_max_freq")
        if allowed is not None and possible is not None and 0 < allowed < possible:
            caps.append((allowed, possible))
    return min(caps, key=lambda cap: cap[0] / cap[1], default=None)


def throttling(root: Path = ROOT) -> tuple[list[str], list[str]] | None:
    """What throttles a Raspberry Pi (now, earlier since boot); None on other machines."""
    bits = firmware_bits(System.of(root))
    if bits is not None:
        return named(bits)
    for folder in sorted(_glob(root / "sys/class/hwmon", "hwmon*")):  # newer kernels keep only the voltage alarm
        if read_text(folder / "name") == "rpi_volt":
            return (["under-voltage"] if read_int(folder / "in0_lcrit_alarm") else []), []
    return None


def temperature(root: Path = ROOT) -> float | None:
    """The hottest thermal zone in °C, else the hottest sensor of the hardware monitors, or None."""
    zones = [read_int(zone / "temp") for zone in _glob(root / "sys/class/thermal", "thermal_zone*")]
    if not zones:
        zones = [read_int(file) for file in _glob(root / "sys/class/hwmon", "hwmon*/temp*_input")]
    degrees = [zone / 1000 for zone in zones if zone is not None]
    return max((value for value in degrees if -40 < value < 150), default=None)  # the rest are broken sensors


def cooled_by_slowing(root: Path = ROOT) -> bool:
    """The kernel is holding the processor's clock down because of heat."""
    for device in _glob(root / "sys/class/thermal", "cooling_device*"):
        kind = (read_text(device / "type") or "").lower()
        if ("cpufreq" in kind or kind == "processor") and (read_int(device / "cur_state") or 0) > 0:
            return True
    return False


def _cpufreq(root: Path) -> Iterator[Path]:
    return _glob(root / "sys/devices/system/cpu", "cpu[0-9]*/cpufreq")


def _glob(folder: Path, pattern: str) -> Iterator[Path]:
    try:
        yield from folder.glob(pattern)
    except OSError:
        return
