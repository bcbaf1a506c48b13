"""Readings taken while something runs, and what they say of a span of it."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from edgelm.machine.sensors import heat, pressure
from edgelm.machine.sensors.clock import Clocks
from edgelm.machine.sensors.sensors import Sensors
from edgelm.machine.sensors.source import Missing
from edgelm.machine.sensors.supply import PowerSource
from edgelm.machine.sensors.throttle import Throttle

INTERVAL = 0.5  # seconds between two readings
_SLOWLY = 4  # readings of power for each of the rest, some of which start a program
_FEWEST = 2  # readings within a span, or there is no energy of it

Span = tuple[float, float]
"""From and until, in seconds of the sampler's clock."""


@dataclass(frozen=True)
class Sample:
    """A reading of everything.

    Attributes:
        seconds: when, by the sampler's clock.
        celsius: by zone.
        mhz: by cluster.
        throttled: what slowed the processor down; None where that is not told.
        stalled: seconds for which tasks have waited for memory, since boot.
    """

    seconds: float
    celsius: Mapping[str, float]
    mhz: Mapping[str, float]
    throttled: frozenset[str] | None
    stalled: float | None


@dataclass(frozen=True)
class Trace:
    """Readings in the order of time.

    Attributes:
        times, joules: when power was read, and the energy used until then since the first reading.
        samples: the rest.
        refused: why `joules` is empty, where there was a source.
    """

    times: Sequence[float]
    joules: Sequence[float]
    samples: Sequence[Sample]
    refused: Missing | None = None

    def energy(self, *spans: Span) -> float | None:
        """Joules used within spans of time, between two readings by their line; None where too few readings tell."""
        inside = sum(bisect_right(self.times, end) - bisect_left(self.times, start) for start, end in spans)
        if inside < _FEWEST or not spans or any(not self._covers(span) for span in spans):
            return None
        return sum(self._until(end) - self._until(start) for start, end in spans)

    def watts(self, span: Span) -> float | None:
        """Mean power within a span of time."""
        energy = self.energy(span)
        return None if energy is None or span[1] <= span[0] else energy / (span[1] - span[0])

    def within(self, span: Span) -> list[Sample]:
        """The readings of the rest within a span."""
        return [sample for sample in self.samples if span[0] <= sample.seconds <= span[1]]

    def _covers(self, span: Span) -> bool:
        slack = 2 * INTERVAL
        return self.times[0] - slack <= span[0] and span[1] <= self.times[-1] + slack

    def _until(self, seconds: float) -> float:
        """Energy until a moment; beyond the readings by the slope of the nearest ones."""
        right = min(max(bisect_left(self.times, seconds), 1), len(self.times) - 1)
        (t0, t1), (e0, e1) = self.times[right - 1 : right + 1], self.joules[right - 1 : right + 1]
        return e0 + (e1 - e0) * (seconds - t0) / (t1 - t0)


class Sampler:
    """Reads the sensors in a thread of its own while its block runs.

    Args:
        sensors: which.
        interval: seconds between two readings of power.
        clock: seconds; the same that spans are told in.
    """

    def __init__(
        self, sensors: Sensors, *, interval: float = INTERVAL, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._sensors, self._interval, self._clock = sensors, interval, clock
        self._times, self._joules = list[float](), list[float]()
        self._watts: float | None = None
        self._samples = list[Sample]()
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._loop, daemon=True, name="sensors")
        self._count = 0

    def __enter__(self) -> Sampler:
        self.take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.take_all()

    def take(self) -> None:
        """Read once, now."""
        with self._lock:
            self._power()
            if self._count % _SLOWLY == 0:
                self._samples.append(self._sample())
            self._count += 1

    def take_all(self) -> None:
        """Read everything once, now."""
        with self._lock:
            self._count = 0
        self.take()

    def trace(self) -> Trace:
        """What has been read until now."""
        with self._lock:
            factor = self._sensors.power.check() if isinstance(self._sensors.power, PowerSource) else 1.0
            if isinstance(factor, Missing):
                return Trace((), (), tuple(self._samples), factor)
            return Trace(tuple(self._times), tuple(factor * e for e in self._joules), tuple(self._samples))

    def latest(self) -> Sample:
        """The last reading of the rest."""
        return self._samples[-1]

    def _loop(self) -> None:
        while not self._stop.wait(self._interval):
            self.take()

    def _power(self) -> None:
        source = self._sensors.power
        if isinstance(source, Missing):
            return
        now = self._clock()
        value = source.read(now)
        if value is None or (self._times and now <= self._times[-1]):
            return  # a gap is bridged by the line between its ends
        if not self._times:
            total = 0.0
        elif source.counts:
            total = self._joules[-1] + value - (self._watts or 0.0)
        else:  # the trapezium
            total = self._joules[-1] + (now - self._times[-1]) * (value + (self._watts or 0.0)) / 2
        self._times.append(now)
        self._joules.append(total)
        self._watts = value

    def _sample(self) -> Sample:
        sensors = self._sensors
        return Sample(
            seconds=self._clock(),
            celsius=heat.temperatures(sensors.system) if sensors.heat is None else {},
            mhz=sensors.clocks.read() if isinstance(sensors.clocks, Clocks) else {},
            throttled=sensors.throttle.read() if isinstance(sensors.throttle, Throttle) else None,
            stalled=pressure.stalled_seconds(sensors.system) if sensors.pressure is None else None,
        )
