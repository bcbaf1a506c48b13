"""What the readings of a run amount to, for a report."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from edgelm.machine.sensors.heat import hottest
from edgelm.machine.sensors.sampler import Sample, Span, Trace
from edgelm.machine.sensors.sensors import Sensors
from edgelm.machine.sensors.source import Missing


@dataclass(frozen=True)
class SensorSummary:
    """Heat, clocks, throttling, energy of a run; None for what `missing` has the reason of.

    Attributes:
        power: what the power is that of.
        idle_watts: before anything was loaded, which energies have taken off.
        celsius_start, celsius_end, celsius_max: of the hottest zone.
        zones: the highest temperature of each.
        mhz: of each cluster the median and the lowest clock.
        throttled_share: of the time, 0 to 1; `causes` names by what.
        stalled_share: of the time in which tasks waited for memory, 0 to 1.
        missing: what could not be told, and why.
    """

    power: str | None
    idle_watts: float | None
    celsius_start: float | None
    celsius_end: float | None
    celsius_max: float | None
    zones: Mapping[str, float]
    mhz: Mapping[str, tuple[float, float]]
    throttled_share: float | None
    causes: tuple[str, ...]
    stalled_share: float | None
    missing: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "power_source": self.power,
            "idle_watts": self.idle_watts,
            "temperature_celsius": {"start": self.celsius_start, "end": self.celsius_end, "max": self.celsius_max},
            "zones_celsius_max": dict(self.zones),
            "clock_mhz": {name: {"median": median, "min": low} for name, (median, low) in self.mhz.items()},
            "throttled_share": self.throttled_share,
            "throttled_by": list(self.causes),
            "memory_stalled_share": self.stalled_share,
            "missing": dict(self.missing),
        }


def summarize(sensors: Sensors, trace: Trace, span: Span, idle_watts: float | None = None) -> SensorSummary:
    """What the readings say of a span of time.

    Args:
        sensors: that were read.
        trace: their readings.
        span: the time of which.
        idle_watts: power before it, None where it was not measured.
    """
    inside = trace.within(span) or list(trace.samples[-1:])
    missing = dict(sensors.missing)
    power = None
    if not isinstance(sensors.power, Missing):
        power = f"{sensors.power.name}: {sensors.power.covers}"
        if trace.refused is not None:
            power, missing["power"] = None, trace.refused.reason
    heats = [value for sample in inside if (value := hottest(sample.celsius)) is not None]
    return SensorSummary(
        power=power,
        idle_watts=idle_watts if power else None,
        celsius_start=heats[0] if heats else None,
        celsius_end=heats[-1] if heats else None,
        celsius_max=max(heats, default=None),
        zones=_by_name([sample.celsius for sample in inside], max),
        mhz=MappingProxyType(
            {n: (statistics.median(v), min(v)) for n, v in _gathered([s.mhz for s in inside]).items()}
        ),
        throttled_share=throttled_share(inside),
        causes=tuple(sorted({cause for sample in inside for cause in sample.throttled or ()})),
        stalled_share=_stalled(inside),
        missing=MappingProxyType(missing),
    )


def throttled_share(samples: Sequence[Sample]) -> float | None:
    """Of the time between readings, that which a reading that says so ends; None where nothing tells."""
    if not samples or samples[0].throttled is None:
        return None
    if len(samples) == 1:
        return float(bool(samples[0].throttled))
    whole = samples[-1].seconds - samples[0].seconds
    slowed = sum(b.seconds - a.seconds for a, b in itertools.pairwise(samples) if b.throttled)
    return slowed / whole if whole > 0 else float(bool(samples[-1].throttled))


def _stalled(samples: Sequence[Sample]) -> float | None:
    told = [(sample.seconds, sample.stalled) for sample in samples if sample.stalled is not None]
    if len(told) < 2 or told[-1][0] <= told[0][0]:
        return None
    return min(1.0, max(0.0, (told[-1][1] - told[0][1]) / (told[-1][0] - told[0][0])))


def _gathered(readings: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    found = dict[str, list[float]]()
    for reading in readings:
        for name, value in reading.items():
            found.setdefault(name, []).append(value)
    return found


def _by_name(readings: Sequence[Mapping[str, float]], of: Any) -> Mapping[str, float]:
    return MappingProxyType({name: of(values) for name, values in _gathered(readings).items()})
