"""Speed by the minute while a bundle computes without a pause: what heat leaves of it.

Rounds of one prompt and one generation follow each other, as in `measure`, until the time is over. A round counts for the
minute in which its middle lies. A minute's figure is the median of its rounds; where they differ widely it is marked,
not averaged away.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgelm.bench.chart import Curve, Panel, chart
from edgelm.bench.energy import Log
from edgelm.bench.speed import Clock, Rates, Runs, SpeedTest, measure
from edgelm.errors import OptionError
from edgelm.machine.sensors import Trace
from edgelm.machine.sensors.heat import hottest
from edgelm.machine.sensors.summary import throttled_share

UNRELIABLE = 0.10  # of the median, the range of the middle half from which a figure is marked
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_SHORTEST, _LONGEST = 4.0, 24 * 3600.0
_STEP = 60.0
_SETTLED = 0.5  # °C by which the temperature falls in `_WATCH` seconds at most, once the board is cool
_WATCH, _PATIENCE = 30.0, 600.0


@dataclass(frozen=True)
class Figure:
    """Tokens a second of a minute.

    Attributes:
        median: of its rounds.
        spread: the range of their middle half over the median; None for fewer than three rounds.
        rounds: how many.
    """

    median: float
    spread: float | None
    rounds: int

    @property
    def unreliable(self) -> bool:
        """Whether they differ too widely for one figure to stand for them."""
        return self.spread is not None and self.spread > UNRELIABLE


@dataclass(frozen=True)
class Minute:
    """A step of time; None for what was not told.

    Attributes:
        start, end: in seconds since the first round.
        prefill, decode: tokens a second.
        celsius: mean of the hottest zone; `mhz` of the fastest cluster; `throttled` the share of the time.
        watts: mean power, idle power included.
    """

    start: float
    end: float
    prefill: Figure | None
    decode: Figure | None
    celsius: float | None
    mhz: float | None
    throttled: float | None
    watts: float | None


@dataclass(frozen=True)
class Sustained:
    """The outcome.

    Attributes:
        prompt, generation: tokens of a round; 0 for none.
        minutes: in the order of time.
        cooled: seconds that were waited for the nominal temperature first; None where the machine tells none.
        nominal: °C at the start of the first round, None where not told.
        settled: whether the temperature had stopped falling by then.
    """

    prompt: int
    generation: int
    minutes: tuple[Minute, ...]
    cooled: float | None
    nominal: float | None
    settled: bool

    def last_to_first(self, kind: str) -> float | None:
        """The last minute's speed over the first one's, of ``prefill`` or ``decode``."""
        told = [figure.median for minute in self.minutes if (figure := getattr(minute, kind)) is not None]
        return told[-1] / told[0] if len(told) > 1 else None

    @property
    def unreliable(self) -> tuple[int, ...]:
        """The numbers, from 1, of the minutes with a figure that is marked."""
        return tuple(
            i
            for i, m in enumerate(self.minutes, 1)
            if any(f is not None and f.unreliable for f in (m.prefill, m.decode))
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "n_prompt": self.prompt,
            "n_gen": self.generation,
            "waited_seconds": self.cooled,
            "nominal_celsius": self.nominal,
            "temperature_settled": self.settled,
            "prefill_last_to_first": self.last_to_first("prefill"),
            "decode_last_to_first": self.last_to_first("decode"),
            "unreliable_minutes": list(self.unreliable),
            "minutes": [asdict(minute) for minute in self.minutes],
        }


def duration(text: str) -> float:
    """Seconds of ``90s``, ``10m``, ``1h`` or a plain number of seconds.

    Raises:
        OptionError: it is none, or out of range.
    """
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smh]?)", text.strip(), re.ASCII)
    if match is None:
        raise OptionError(f"{text!r} is no time", hint="such as 90s, 10m or 1h")
    seconds = float(match[1]) * _UNITS[match[2]]
    if not _SHORTEST <= seconds <= _LONGEST:
        raise OptionError(f"{text!r} is out of range: from {_SHORTEST:g} seconds to 24 hours")
    return seconds


def cool_down(
    celsius: Callable[[], float | None],
    *,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    on_wait: Callable[[float, float], None] = lambda seconds, celsius: None,
) -> tuple[float | None, float | None, bool]:
    """Wait until the temperature falls no more: by half a degree in half a minute at most.

    Returns:
        seconds waited and the temperature now (None, None where the machine tells none), and whether it has settled.
    """
    first = celsius()
    if first is None:
        return None, None, False
    start = clock()
    readings = [(start, first)]
    while (waited := clock() - start) < _PATIENCE:
        earlier = [value for when, value in readings if when <= clock() - _WATCH]
        if earlier and earlier[-1] - readings[-1][1] < _SETTLED:
            return waited, readings[-1][1], True
        on_wait(waited, readings[-1][1])
        sleep(1.0)
        now = celsius()
        readings.append((clock(), readings[-1][1] if now is None else now))
    return waited, readings[-1][1], False


def sustain(
    engine: Runs,
    tests: Sequence[SpeedTest],
    seconds: float,
    *,
    bos: int | None = None,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    on_round: Callable[[float, float], None] = lambda done, total: None,
) -> list[Rates]:
    """Run the tests in turn, again and again, until the time is over; a round that has begun is finished.

    Args:
        engine: is left empty.
        tests: one of a prompt, one of a generation, or either.
        seconds: for which.
        bos, seed, clock: as `measure` takes them.
        on_round: is called with (seconds done, seconds in all).

    Returns:
        of each test all rounds, the warm-up at the very start not among them.
    """
    found = {test: list[tuple[float, float]]() for test in tests}
    measure(engine, tests, repetitions=1, bos=bos, seed=seed, clock=clock)
    start, turn = clock(), 0
    while (done := clock() - start) < seconds:
        on_round(done, seconds)
        for test in tests:
            turn += 1
            only = measure(engine, [test], repetitions=1, bos=bos, seed=seed + turn, clock=clock, warm_up=False)[0]
            found[test] += only.spans
    return [
        Rates(test, tuple(test.tokens / (end - begin) for begin, end in spans), spans=tuple(spans))
        for test, spans in found.items()
    ]


def by_minute(results: Sequence[Rates], trace: Trace, seconds: float) -> tuple[Minute, ...]:
    """What the rounds and the readings say of each minute; of a quarter of the time where it is less than two.

    Args:
        results: from `sustain`.
        trace: the readings meanwhile.
        seconds: that were asked for.
    """
    start = min(span[0] for rates in results for span in rates.spans)
    step = _STEP if seconds >= 2 * _STEP else seconds / 4
    count = max(1, round(seconds / step))
    minutes = []
    for index in range(count):
        begin, end = start + index * step, start + (index + 1) * step
        if index == count - 1:  # the last round goes on for a while
            end = max(end, *(span[1] for rates in results for span in rates.spans))
        inside = trace.within((begin, end))
        heats = [heat for sample in inside if (heat := hottest(sample.celsius)) is not None]
        clocks = [max(sample.mhz.values()) for sample in inside if sample.mhz]
        figures = {bool(rates.test.prompt): _figure(rates, begin, end) for rates in results}
        minutes.append(
            Minute(
                start=begin - start,
                end=end - start,
                prefill=figures.get(True),
                decode=figures.get(False),
                celsius=statistics.fmean(heats) if heats else None,
                mhz=statistics.fmean(clocks) if clocks else None,
                throttled=throttled_share(inside),
                watts=trace.watts((begin, end)),
            )
        )
    return tuple(minutes)


def _figure(rates: Rates, begin: float, end: float) -> Figure | None:
    inside = [
        rate for rate, span in zip(rates.rates, rates.spans, strict=True) if begin <= (span[0] + span[1]) / 2 < end
    ]
    return Figure(statistics.median(inside), spread(inside), len(inside)) if inside else None


def spread(values: Sequence[float]) -> float | None:
    """The range of the middle half over the median; None for fewer than three values."""
    if len(values) < 3:
        return None
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def run(
    engine: Runs,
    tests: Sequence[SpeedTest],
    seconds: float,
    log: Log | None,
    *,
    bos: int | None,
    seed: int,
    on_round: Callable[[float, float, str], None],
) -> tuple[list[Rates], Sustained]:
    """Wait until the machine is cool, then `sustain`.

    Args:
        log: the sensors' readings, or None.
        on_round: is called with seconds done, seconds in all, and what is done.

    Returns:
        all rounds of each test, and what they say by the minute.
    """

    def celsius() -> float | None:
        return None if log is None else log.celsius()

    waited, nominal, settled = cool_down(
        celsius, on_wait=lambda done, now: on_round(0, seconds, f"cooling down: {now:.1f} °C after {done:.0f} s")
    )
    results = sustain(
        engine, tests, seconds, bos=bos, seed=seed, on_round=lambda done, total: on_round(done, total, "sustained")
    )
    trace = Trace((), (), ()) if log is None else log.trace()
    prompt, generation = (max((getattr(test, kind) for test in tests), default=0) for kind in ("prompt", "generation"))
    return results, Sustained(prompt, generation, by_minute(results, trace, seconds), waited, nominal, settled)


def picture(sustained: Sustained, title: str) -> str:
    """Speed, heat, clock and power over time as an SVG; what was not told has no panel."""
    minutes = sustained.minutes
    middle = [(minute.start + minute.end) / 120 for minute in minutes]

    def curve(name: str, values: Sequence[float | None]) -> Curve:
        return Curve(name, list(zip(middle, values, strict=True)))

    def speed(kind: str) -> list[float | None]:
        return [None if (f := getattr(minute, kind)) is None else f.median for minute in minutes]

    panels = [
        Panel("decode, tokens a second", [curve("", speed("decode"))], zero=True),
        Panel("prefill, tokens a second", [curve("", speed("prefill"))], zero=True),
        Panel("hottest zone, °C", [curve("", [minute.celsius for minute in minutes])]),
        Panel("fastest cluster, MHz", [curve("", [minute.mhz for minute in minutes])]),
        Panel("power, W", [curve("", [minute.watts for minute in minutes])], zero=True),
    ]
    return chart(title, "minutes", panels)


def rows(sustained: Sustained) -> list[list[str]]:
    """A table of the minutes, its head first."""
    table = [["minute", "prefill t/s", "decode t/s", "°C", "MHz", "throttled", "W"]]
    for number, minute in enumerate(sustained.minutes, 1):
        whole = minute.end - minute.start >= _STEP
        table.append(
            [
                str(number) if whole else f"{minute.start:.0f}–{minute.end:.0f} s",
                _shown(minute.prefill),
                _shown(minute.decode),
                _number(minute.celsius, ".1f"),
                _number(minute.mhz, ",.0f"),
                _number(minute.throttled, ".0%"),
                _number(minute.watts, ".2f"),
            ]
        )
    return table


def remarks(sustained: Sustained) -> Iterator[str]:
    """First against last, what is not to be relied on, and how it began: a fact a line."""
    for kind in ("prefill", "decode"):
        if (ratio := sustained.last_to_first(kind)) is not None:
            yield f"{kind}: the last row is {ratio:.2f} times as fast as the first"
    if sustained.unreliable:
        which = ", ".join(map(str, sustained.unreliable))
        yield f"unreliable (~): rounds of row {which} differ by more than {UNRELIABLE:.0%}: does something else run?"
    if sustained.cooled is None:
        yield "not waited for a nominal temperature: this machine tells none"
    else:
        held = "" if sustained.settled else ", still falling: the first minute may be too slow"
        yield f"waited {sustained.cooled:.0f} s for a steady temperature: {_number(sustained.nominal, '.1f')} °C{held}"


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    return f"{'~' if figure.unreliable else ''}{figure.median:.2f}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
