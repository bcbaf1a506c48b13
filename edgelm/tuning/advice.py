"""What the clock of this machine could be set to. It is advice: nothing is ever set."""

from __future__ import annotations

from pathlib import Path

from edgelm.device import sensors
from edgelm.machine.host import ROOT, read_int, read_text
from edgelm.profile.profile import Goal

_CPUFREQ = "/sys/devices/system/cpu/cpu*/cpufreq"
_SLOW_STARTERS = frozenset({"powersave", "ondemand", "conservative", "schedutil"})
_SAVING = 0.62  # of the highest clock; a Raspberry Pi 5 at 1.5 of 2.4 GHz takes 23 % less energy for 15 % less speed


def advice(goal: Goal, root: Path = ROOT) -> list[str]:
    """What may be tried by hand, a line each; nothing where the clock is not this system's to set."""
    governors, found = sensors.governors(root), list[str]()
    if not governors:
        return found
    slow = governors & _SLOW_STARTERS
    if goal != "energy" and slow and not sensors.scales_by_hardware(root):
        found.append(
            f"the governor is {', '.join(sorted(slow))}: performance keeps the clock up between tokens: "
            f"echo performance | sudo tee {_CPUFREQ}/scaling_governor; then tune again"
        )
    if goal != "energy" and (cap := sensors.capped_clock(root)) is not None:
        found.append(
            f"the clock is limited to {cap[0] / 1e6:.2f} of {cap[1] / 1e6:.2f} GHz: see scaling_max_freq in {_CPUFREQ}"
        )
    if goal == "energy" and (lower := _lower_clock(root)) is not None:
        found.append(
            f"a lower clock often takes less energy a token, for less speed: echo {lower} | sudo tee "
            f"{_CPUFREQ}/scaling_max_freq; then tune again and compare"
        )
    return found


def _lower_clock(root: Path) -> int | None:
    """A clock in kHz that saves energy on boards alike; None where there is none below the present limit."""
    for folder in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")):
        most, limit = read_int(folder / "cpuinfo_max_freq"), read_int(folder / "scaling_max_freq")
        least = read_int(folder / "cpuinfo_min_freq")
        if most is None or limit is None or least is None:
            continue
        wanted = int(most * _SAVING)
        words = (read_text(folder / "scaling_available_frequencies") or "").split()
        steps = [int(word) for word in words if word.isdecimal()] or [wanted]
        nearest = min(steps, key=lambda step: abs(step - wanted))
        if least <= nearest < limit:
            return nearest
    return None
