"""Speed by the minute, on a machine that heats up without our waiting for it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from edgelm.bench.chart import Curve, Panel, chart, ticks
from edgelm.bench.report import BenchOptions, benchmark, render
from edgelm.bench.speed import Rates, SpeedTest
from edgelm.bench.sustained import (
    Figure,
    Sustained,
    by_minute,
    cool_down,
    duration,
    picture,
    remarks,
    rows,
    spread,
    sustain,
)
from edgelm.errors import OptionError
from edgelm.machine.sensors import Trace
from edgelm.machine.sensors.sampler import Sample
from edgelm.runtime.ort.options import LoadOptions

EMPTY = Trace((), (), ())


class Hot:
    """An engine whose time is its own: 20 ms a token, twice that from the sixth minute on."""

    context, vocab_size = 1024, 50

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def forward(self, ids, num_logits=1):
        self.now += len(ids) * (0.02 if self.now < 300 else 0.04)
        return np.zeros((1, self.vocab_size), np.float32)

    prefill = forward

    def reset(self) -> None:
        pass


def test_a_machine_that_heats_up():
    engine = Hot()
    tests = [SpeedTest(128, 0), SpeedTest(0, 64)]
    results = sustain(engine, tests, 600, clock=engine.clock)
    minutes = by_minute(results, EMPTY, 600)
    assert len(minutes) == 10
    assert [m.decode.median for m in minutes if m.decode] == pytest.approx([50] * 5 + [25] * 5)
    assert sum(m.prefill.rounds for m in minutes if m.prefill) == len(results[0].rates)
    over = Sustained(128, 64, minutes, None, None, False)
    assert over.last_to_first("decode") == pytest.approx(0.5)
    assert over.unreliable == ()
    assert "decode: the last row is 0.50 times as fast as the first" in list(remarks(over))


def test_a_wide_spread_is_marked_and_not_averaged_away():
    spans = tuple((float(i), i + 0.9) for i in range(120))
    values = tuple(40.0 if i < 60 or i % 2 else 20.0 for i in range(120))
    minutes = by_minute([Rates(SpeedTest(0, 32), values, spans=spans)], EMPTY, 120)
    over = Sustained(0, 32, minutes, 31.0, 45.0, True)
    assert over.unreliable == (2,)
    assert [row[2] for row in rows(over)] == ["decode t/s", "40.00", "~30.00"]
    assert any(line.startswith("unreliable") for line in remarks(over))
    assert over.to_dict()["unreliable_minutes"] == [2]
    assert over.last_to_first("prefill") is None


def test_heat_and_power_stand_beside():
    times = [float(i) for i in range(241)]
    samples = [Sample(t, {"cpu": 40 + t / 10}, {"big": 2400.0 - t, "small": 1000.0}, frozenset(), None) for t in times]
    trace = Trace(times, [3 * t for t in times], samples)
    minutes = by_minute(
        [Rates(SpeedTest(0, 8), (1.0,) * 4, spans=((0, 9), (60, 69), (120, 129), (180, 239)))], trace, 240
    )
    assert [m.watts for m in minutes] == pytest.approx([3.0] * 4)
    assert [m.celsius for m in minutes] == pytest.approx([43, 49, 55, 61])
    assert [m.mhz for m in minutes] == pytest.approx([2370, 2310, 2250, 2190])
    assert [m.throttled for m in minutes] == [0.0] * 4
    root = ET.fromstring(picture(Sustained(0, 8, minutes, None, None, False), "a <board> & more"))
    lines = [element for element in root if element.get("class", "").startswith("curve") and element.get("points")]
    assert len(lines) == 4  # decode, heat, clock, power; no prefill
    assert "a <board> & more" in [element.text for element in root]
    assert "prefers-color-scheme:dark" in (root[0].text or "")


def test_names_of_curves_are_inside_the_picture():
    name = "some-model-of-the-hub int4"
    root = ET.fromstring(chart("a", "minutes", [Panel("b", [Curve(name, [(0.0, 1.0), (1.0, 2.0)])])]))
    (label,) = [element for element in root if element.text == name]
    assert float(label.get("x", "")) + 6.5 * len(name) < float(root.get("width", ""))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("45", 45), ("1.5m", 90), (" 2m ", 120)]
)
def test_times(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1m", "10 minutes", "1s", "25h", "１m", "1e3"])
def test_what_is_no_time(text):
    with pytest.raises(OptionError):
        duration(text)


def cooling(start: float, low: float, per_second: float):
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return cool_down(lambda: max(low, start - per_second * now[0]), clock=lambda: now[0], sleep=sleep)


def test_it_waits_until_the_board_is_cool():
    waited, celsius, settled = cooling(70.0, 45.0, 0.25)
    assert (celsius, settled) == (45.0, True)
    assert waited == pytest.approx(100 + 30, abs=3)
    assert cooling(45.0, 45.0, 1.0) == (30.0, 45.0, True)
    assert cooling(90.0, -500.0, 0.5)[2] is False
    assert cool_down(lambda: None) == (None, None, False)


def test_spread_is_the_middle_half():
    assert spread([10, 10]) is None
    assert spread([10, 10, 10, 10, 99]) == 0
    assert spread([8, 9, 10, 11, 12]) == pytest.approx(0.2)
    assert not Figure(10.0, None, 2).unreliable


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (37.2, 39.9), (1800.0, 2400.0), (0.001, 0.0012)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high, 5)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in found)


def test_a_bundle_over_time(tiny_bundle):
    options = BenchOptions(prompts=[16], generations=[4], sustained=4.0)
    report = benchmark(tiny_bundle, options, LoadOptions(threads=1))
    assert report.sustained is not None
    assert len(report.sustained.minutes) == 4
    assert all(minute.decode and minute.decode.median > 0 for minute in report.sustained.minutes)
    assert "| minute |" in render(report, "md").replace("  ", "")
    assert report.to_dict()["sustained"]["n_gen"] == 4
    assert report.rows()[0]["test"] == "pp16"
