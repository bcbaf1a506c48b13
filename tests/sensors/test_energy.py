"""Joules against an integral made another way, on machines whose power is known as a function of time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from recorded_boards import BOARDS, LAPTOP, PHONE, PI5, PMIC_WATTS, Tree, pmic, write
from scipy.integrate import quad

from edgelm.machine.sensors import Sampler, Trace, open_sensors, summarize
from edgelm.machine.sensors.source import Missing
from edgelm.machine.sensors.summary import throttled_share

INA = "sys/class/hwmon/hwmon3"
RAPL = "sys/class/powercap/intel-rapl:0"
BATTERY = "sys/class/power_supply/battery"
SPAN = (3.2, 17.9)


def watts(seconds: float) -> float:
    """A board that idles at 2 W, works between 3 and 18 s, and ripples."""
    return 2.0 + (5.0 + math.sin(1.3 * seconds) if 3 <= seconds <= 18 else 0.0)


def joules(start: float, end: float) -> float:
    return quad(watts, start, end, points=[p for p in (3, 18) if start < p < end] or None, limit=500)[0]


def played(
    root: Path, tree: Tree, at: Callable[[float], Tree], *, until: float = 20.0, interval: float = 0.1
) -> tuple[Trace, Sampler]:
    """The trace of a machine whose files change with time, without waiting for it."""
    now = 0.0
    sensors = open_sensors(write(root, tree | at(0.0)))
    sampler = Sampler(sensors, clock=lambda: now)
    for step in range(round(until / interval) + 1):
        now = step * interval
        write(root, at(now))
        sampler.take()
    return sampler.trace(), sampler


@pytest.mark.parametrize(
    ("tree", "at"),
    [
        ("pi5", lambda t: {"commands/vcgencmd pmic_read_adc": pmic(watts(t) / PMIC_WATTS)}),
        ("orin", lambda t: {f"{INA}/in1_input": "5000", f"{INA}/curr1_input": f"{watts(t) / 5 * 1000:.0f}"}),
        # begins 0.3 mJ before its counter wraps, and wraps every 40 J
        (
            "laptop",
            lambda t: {
                f"{RAPL}/max_energy_range_uj": "40000000",
                f"{RAPL}/energy_uj": f"{(39_999_700 + round(1e6 * joules(0, t))) % 40_000_000}",
            },
        ),
    ],
)
def test_joules_are_the_integral(tmp_path, tree, at):
    trace, _ = played(tmp_path, BOARDS[tree], at)
    assert trace.energy(SPAN) == pytest.approx(joules(*SPAN), rel=2e-3)
    assert trace.energy((5.03, 9.07), (11.0, 12.0)) == pytest.approx(joules(5.03, 9.07) + joules(11, 12), rel=2e-3)
    assert trace.watts((0.0, 2.9)) == pytest.approx(2.0, rel=1e-3)


def test_a_span_with_too_few_readings_has_no_energy(tmp_path):
    trace, _ = played(tmp_path, PI5, lambda t: {}, interval=0.5)
    assert trace.energy((1.1, 1.3)) is None
    assert trace.energy((1.1, 1.7)) is None
    assert trace.energy((30.0, 40.0)) is None
    assert trace.energy() is None
    assert trace.energy((1.1, 2.2)) == pytest.approx(1.1 * PMIC_WATTS)


def test_readings_that_fail_are_bridged(tmp_path):
    def at(seconds: float) -> Tree:
        gone = 6 <= seconds < 7
        return {"commands/vcgencmd pmic_read_adc": "" if gone else pmic(2 / PMIC_WATTS)}

    trace, _ = played(tmp_path, PI5, at)
    assert trace.energy(SPAN) == pytest.approx(2 * (SPAN[1] - SPAN[0]))


def battery(unit: float, sign: int, counter: float = 1.0, volts: float = 3.9) -> Callable[[float], Tree]:
    """A phone: its current in amperes times `unit`, its charge counter by steps of 200 µAh."""

    def at(seconds: float) -> Tree:
        left = 3_400_000 - counter * joules(0, seconds) / volts / 3600 * 1e6
        return {
            f"{BATTERY}/current_now": f"{sign * watts(seconds) / volts * unit:.0f}",
            f"{BATTERY}/voltage_now": f"{volts * 1e6:.0f}",
            f"{BATTERY}/charge_counter": f"{math.floor(left / 200) * 200}",
        }

    return at


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("unit", [1e6, 1e3])
def test_a_batterys_unit_and_sign_are_found_by_its_counter(tmp_path, unit, sign):
    trace, _ = played(tmp_path, PHONE, battery(unit, sign))
    assert trace.energy(SPAN) == pytest.approx(joules(*SPAN), rel=1e-2)


def test_millivolts(tmp_path):
    at = battery(1e6, -1)
    trace, _ = played(tmp_path, PHONE, lambda t: at(t) | {f"{BATTERY}/voltage_now": "3900"})
    assert trace.energy(SPAN) == pytest.approx(joules(*SPAN), rel=1e-2)


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (battery(1e6, 1, counter=30.0), "do not agree in any unit"),
        (battery(1e5, 1), "do not agree in any unit"),
        (battery(1e6, 1, counter=0.0), "moved less than twice"),
        (battery(1e6, 1, counter=-1.0), "went up while it was emptied"),
        (lambda t: battery(1e6, -1)(t) | {f"{BATTERY}/status": "Charging" if t > 9 else "Discharging"}, "charging"),
    ],
)
def test_a_battery_that_cannot_be_trusted_is_refused(tmp_path, at, reason):
    trace, sampler = played(tmp_path, PHONE, at)
    assert isinstance(trace.refused, Missing)
    assert reason in trace.refused.reason
    assert trace.energy(SPAN) is None
    assert reason in summarize(sampler._sensors, trace, SPAN).missing["power"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({f"{BATTERY}/status": "Charging"}, "unplug it"),
        ({f"{BATTERY}/charge_counter": "?"}, "no charge counter"),
        ({f"{BATTERY}/voltage_now": "0"}, "does not tell its voltage"),
    ],
)
def test_a_battery_that_is_no_sensor(tmp_path, changed, reason):
    assert reason in open_sensors(write(tmp_path, PHONE | changed)).missing["power"]


def test_heat_clock_and_throttling_of_a_span(tmp_path):
    def at(seconds: float) -> Tree:
        return {
            "sys/class/thermal/thermal_zone0/temp": f"{50_000 + 1000 * seconds:.0f}",
            "commands/vcgencmd get_throttled": f"throttled={'0xe0008' if seconds >= 16 else '0x0'}",
            "commands/vcgencmd measure_clock arm": f"frequency(0)={1500000000 if seconds >= 16 else 2400000000}",
        }

    trace, sampler = played(tmp_path, PI5, at)
    told = summarize(sampler._sensors, trace, (0.0, 20.0), idle_watts=2.0)
    assert (told.celsius_start, told.celsius_end, told.celsius_max) == pytest.approx((50.0, 70.0, 70.0))
    assert told.throttled_share == pytest.approx(0.2, abs=0.021)
    assert told.causes == ("soft temperature limit",)
    assert told.mhz["cortex-a76"] == (2400.0, 1500.0)
    assert told.idle_watts == 2.0
    assert told.power is not None
    assert told.power.startswith("PMIC: ")
    assert throttled_share([]) is None


def test_waiting_for_memory(tmp_path):
    pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total={:.0f}\n"
    trace, sampler = played(tmp_path, LAPTOP, lambda t: {"proc/pressure/memory": pressure.format(2e6 + 5e4 * t)})
    assert summarize(sampler._sensors, trace, (0.0, 20.0)).stalled_share == pytest.approx(0.05)
