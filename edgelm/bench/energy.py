"""Energy and heat of a benchmark: the sensors are read from before the bundle is loaded until the last run.

Joules per token are those of the timed runs alone, warm-ups and prompts in front of a depth not counted. Idle power,
measured before the bundle is loaded, is taken off; the figure with it is told as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgelm.bench.speed import Rates
from edgelm.machine.host import ROOT
from edgelm.machine.sensors import Sampler, Sensors, SensorSummary, Trace, open_sensors, summarize
from edgelm.machine.sensors.heat import hottest, temperatures
from edgelm.machine.sensors.source import Missing


@dataclass(frozen=True)
class Meters:
    """Which sensors are read.

    Attributes:
        command: of the user's own power meter, which prints watts; None for what the machine has.
        idle_seconds: for which idle power is measured, where there is power to measure.
        root: under which /proc and /sys lie.
    """

    command: str | None = None
    idle_seconds: float = 5.0
    root: Path = ROOT


class Log:
    """The readings of a benchmark that runs."""

    def __init__(self, sensors: Sensors, sampler: Sampler, idle: tuple[float, float] | None) -> None:
        self.sensors, self.sampler, self._idle = sensors, sampler, idle
        self._start = time.perf_counter()
        sampler.take_all()

    def idle_watts(self) -> float | None:
        """Power before anything was loaded."""
        return None if self._idle is None else self.sampler.trace().watts(self._idle)

    def trace(self) -> Trace:
        """All readings until now, the last one just taken."""
        self.sampler.take_all()
        return self.sampler.trace()

    def celsius(self) -> float | None:
        """The hottest zone now."""
        return None if self.sensors.heat is not None else hottest(temperatures(self.sensors.system))

    def summary(self) -> SensorSummary:
        """What the readings say of the time since the log was opened."""
        trace = self.trace()
        return summarize(self.sensors, trace, (self._start, time.perf_counter()), self.idle_watts())


@contextmanager
def reading(meters: Meters | None, on_idle: Callable[[float], None] = lambda seconds: None) -> Iterator[Log | None]:
    """The sensors, read while the block runs; idle power first, for which nothing else should run.

    Args:
        meters: which; None reads none.
        on_idle: is called with the seconds that idle power is measured for.
    """
    if meters is None:
        yield None
        return
    sensors = open_sensors(meters.root, meter=meters.command)
    try:
        with Sampler(sensors) as sampler:
            idle = None
            if not isinstance(sensors.power, Missing) and meters.idle_seconds > 0:
                on_idle(meters.idle_seconds)
                start = time.perf_counter()
                sampler.take()
                time.sleep(meters.idle_seconds)
                sampler.take()
                idle = (start, time.perf_counter())
            yield Log(sensors, sampler, idle)
    finally:
        sensors.close()


def with_energy(results: Sequence[Rates], log: Log | None) -> list[Rates]:
    """The results with their joules per token, where runs were long enough for readings to tell."""
    if log is None:
        return list(results)
    trace, idle = log.sampler.trace(), log.idle_watts()
    told = []
    for rates in results:
        energy = trace.energy(*rates.spans) if rates.spans else None
        if energy is None:
            told.append(rates)
            continue
        tokens, seconds = rates.test.tokens * len(rates.spans), sum(end - start for start, end in rates.spans)
        net = None if idle is None else (energy - idle * seconds) / tokens
        told.append(replace(rates, joules_per_token=net, gross_joules_per_token=energy / tokens))
    return told


def lines(summary: SensorSummary, results: Sequence[Rates]) -> Iterator[str]:
    """The sensors' part of a report, a fact a line; in the last one what the machine does not tell, and why."""
    missing, untold = summary.missing, list[str]()
    if summary.power is None:
        untold.append(f"energy ({missing.get('power', 'not read')})")
    elif all(rates.gross_joules_per_token is None for rates in results):
        yield "energy: – (the runs were too short for two readings: more tokens or repetitions)"
    else:
        if summary.idle_watts is None:
            yield f"power by {summary.power}; idle power is not taken off"
        else:
            yield f"power by {summary.power}; idle power of {summary.idle_watts:.2f} W is taken off"
        yield f"energy: {', '.join(_energy(rates) for rates in results if rates.gross_joules_per_token is not None)}"
    if summary.celsius_start is None or summary.celsius_end is None:
        untold.append(f"temperature ({missing.get('temperature', 'not read')})")
    else:
        most = "" if summary.celsius_max is None else f", {summary.celsius_max:.1f} °C at most"
        yield f"temperature: {summary.celsius_start:.1f} °C at the start, {summary.celsius_end:.1f} °C at the end{most}"
    if summary.mhz:
        yield "clock: " + ", ".join(
            f"{name} {mid:,.0f} MHz, lowest {low:,.0f}" for name, (mid, low) in summary.mhz.items()
        )
    else:
        untold.append(f"clock ({missing.get('clock', 'not read')})")
    if summary.throttled_share is None:
        untold.append(f"throttling ({missing.get('throttling', 'not read')})")
    else:
        by = f" by {', '.join(summary.causes)}" if summary.causes else ""
        yield f"throttled: {summary.throttled_share:.0%} of the time{by}"
    if summary.stalled_share is None:
        untold.append(f"waiting for memory ({missing.get('memory pressure', 'too short to tell')})")
    else:
        yield f"waited for memory: {summary.stalled_share:.1%} of the time"
    if untold:
        yield f"this machine does not tell: {'; '.join(untold)}"


def _energy(rates: Rates) -> str:
    gross = rates.gross_joules_per_token or 0.0
    if rates.joules_per_token is None:
        return f"{rates.test.name} {shown(gross)} per token"
    return f"{rates.test.name} {shown(rates.joules_per_token)} per token ({shown(gross)} with idle power)"


def shown(joules: float) -> str:
    """Joules as people read them."""
    return f"{joules:.3g} J" if abs(joules) >= 1 else f"{1e3 * joules:.3g} mJ"
