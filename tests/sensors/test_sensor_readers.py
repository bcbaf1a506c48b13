"""Which sensors of a machine are taken, and what they read."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded_boards import BOARDS, LAPTOP, ORIN, PI4, PI5, PMIC_WATTS, pmic, write

from edgelm.machine.sensors import Sensors, open_sensors
from edgelm.machine.sensors.heat import temperatures
from edgelm.machine.sensors.power import open_power, pmic_watts
from edgelm.machine.sensors.pressure import stalled_seconds
from edgelm.machine.sensors.source import Missing, System
from edgelm.machine.sensors.supply import PowerSource
from edgelm.machine.sensors.throttle import Throttle, open_throttle


def opened(root: Path, name: str, **changed: str) -> Sensors:
    return open_sensors(write(root, BOARDS[name] | changed))


@pytest.mark.parametrize(
    ("board", "power", "watts", "celsius", "mhz", "missing"),
    [
        ("pi5", "PMIC", PMIC_WATTS, {"cpu-thermal": 51.2}, {"cortex-a76": 2400.026112}, {"memory pressure"}),
        ("pi4", None, None, {"cpu-thermal": 60.862}, {"cortex-a72": 1500.345728}, {"power", "memory pressure"}),
        ("orin", "INA3221", 5.064 * 1.176, None, {"cortex-a78ae": 1510.4}, set()),
        ("phone", "battery", -0.812 * 3.921, {"cpu-0-0": 61.0, "cpu-1-0": 66.4}, None, {"memory pressure"}),
        ("laptop", "RAPL", 0.0, {"x86_pkg_temp": 55.0}, {"cores": 2901.5}, set()),
    ],
)
def test_boards(tmp_path, board, power, watts, celsius, mhz, missing):
    sensors = opened(tmp_path, board)
    assert set(sensors.missing) == missing
    if power is None:
        assert sensors.missing["power"].startswith("no power sensor: give --power-meter")
    else:
        assert isinstance(sensors.power, PowerSource)
        assert sensors.power.name == power
        assert sensors.power.read(0) == pytest.approx(watts)
    if celsius is not None:
        assert temperatures(sensors.system) == celsius
    if mhz is not None:
        assert not isinstance(sensors.clocks, Missing)
        assert sensors.clocks.read() == pytest.approx(mhz)
    assert isinstance(sensors.throttle, Throttle)
    assert sensors.throttle.read() == frozenset()


def test_every_cluster_of_a_phone_has_its_clock(tmp_path):
    clocks = opened(tmp_path, "phone").clocks
    assert not isinstance(clocks, Missing)
    assert clocks.read() == {
        "cortex-x3": 3187.2,
        "cortex-a715": 2803.2,
        "cortex-a710": 2803.2,
        "cortex-a510": 2016.0,
    }


def test_an_empty_machine_has_a_reason_for_everything(tmp_path):
    sensors = open_sensors(tmp_path)
    assert set(sensors.missing) == {"power", "temperature", "clock", "throttling", "memory pressure"}
    assert all(reason.strip() and "\n" not in reason for reason in sensors.missing.values())


def test_sensors_that_are_switched_off_or_broken_are_left_out(tmp_path):
    assert set(temperatures(opened(tmp_path, "orin").system)) == {
        "CPU-thermal",
        "GPU-thermal",
        "SOC0-thermal",
        "tj-thermal",
    }


def test_hardware_monitors_tell_the_heat_where_no_zone_does(tmp_path):
    root = write(
        tmp_path, {"sys/class/hwmon/hwmon2/name": "k10temp\n", "sys/class/hwmon/hwmon2/temp1_input": "64250\n"}
    )
    assert temperatures(System.of(root)) == {"k10temp temp1": 64.25}


@pytest.mark.parametrize(
    ("text", "watts"),
    [
        (pmic(2.0), 2 * PMIC_WATTS),
        ("VDD_CORE_A=1.5A\nVDD_CORE_V=0.8V\n", 1.2),
        ("VDD_CORE_A current(7)=1.5A\nEXT5V_V volt(24)=5.1V\n", None),
        ("VCHI initialization failed", None),
        ("", None),
    ],
)
def test_rails_of_the_pmic(text, watts):
    assert pmic_watts(text) == (None if watts is None else pytest.approx(watts, rel=1e-6))


INA = "sys/class/hwmon/hwmon3"
AGX = {f"{INA}/in{i}_label": name for i, name in enumerate(("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), 1)}


@pytest.mark.parametrize(
    ("files", "watts", "reason"),
    [
        (ORIN | AGX, 5.064 * (1.176 + 0.264 + 0.288), None),
        (ORIN | {f"{INA}/in1_label": "VDD_SOMETHING"}, None, "none of these rails carries the whole board"),
        ({k: v for k, v in ORIN.items() if "curr1" not in k}, None, "INA3221 gives no current of VDD_IN"),
        ({f"{INA}/name": "ina226", f"{INA}/power1_input": "4250000\n"}, 4.25, None),
        ({f"{INA}/name": "ina226", f"{INA}/power1_input": "-4250000\n"}, 4.25, None),
        (
            {f"{INA}/name": "ina2", f"{INA}/power1_input": "1", f"{INA}/power2_input": "2"},
            None,
            "which is the whole board's is not known",
        ),
        (
            {f"{INA}/name": "macsmc", f"{INA}/power1_input": "1", f"{INA}/power2_input": "9000000"}
            | {f"{INA}/power2_label": "Total System Power"},
            9.0,
            None,
        ),
        ({f"{INA}/name": "amdgpu", f"{INA}/power1_average": "30000000"}, None, "no power sensor"),
        ({f"{INA}/name": "ina226", f"{INA}/power1_input": "garbage"}, None, "no power sensor"),
        ({k: v for k, v in LAPTOP.items() if not k.endswith("energy_uj") and "BAT" not in k}, None, "RAPL is for root"),
        (
            PI4 | {"commands/vcgencmd pmic_read_adc": 'error=1 error_msg="Command not registered"'},
            None,
            "no power sensor",
        ),
    ],
)
def test_odd_power_sensors(tmp_path, files, watts, reason):
    power = open_power(System.of(write(tmp_path, files)))
    if isinstance(power, Missing):
        assert watts is None
        assert reason in power.reason
    else:
        assert power.read(0) == pytest.approx(watts)


def test_without_rapl_a_laptops_battery_is_read(tmp_path):
    power = open_power(System.of(write(tmp_path, {k: v for k, v in LAPTOP.items() if "rapl" not in k})))
    assert isinstance(power, PowerSource)
    assert (power.name, power.read(0)) == ("battery", 9.1)


@pytest.mark.parametrize(
    ("board", "changed", "by"),
    [
        ("pi5", {"commands/vcgencmd get_throttled": "throttled=0x50004"}, {"throttled"}),
        ("pi4", {"commands/vcgencmd get_throttled": "throttled=0xa000a"}, {"clock capped", "soft temperature limit"}),
        ("orin", {"sys/class/thermal/cooling_device0/cur_state": "3\n"}, {"heat (kernel)"}),
        ("phone", {"sys/devices/system/cpu/cpu7/cpufreq/scaling_max_freq": "2400000"}, {"clock cap lowered"}),
        ("laptop", {"sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "13"}, {"heat (processor)"}),
        ("laptop", {"sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "?"}, set()),
    ],
)
def test_throttling(tmp_path, board, changed, by):
    throttle = open_throttle(System.of(write(tmp_path, BOARDS[board])))
    assert isinstance(throttle, Throttle)
    assert throttle.read() == set()
    write(tmp_path, changed)
    assert throttle.read() == by


def test_a_counter_that_stands_still_says_no_more(tmp_path):
    throttle = open_throttle(System.of(write(tmp_path, BOARDS["laptop"])))
    assert isinstance(throttle, Throttle)
    write(tmp_path, {"sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "4"})
    assert [bool(throttle.read()) for _ in range(2)] == [True, False]


def test_pressure(tmp_path):
    system = System.of(write(tmp_path, {"proc/pressure/memory": BOARDS["orin"]["proc/pressure/memory"]}))
    assert stalled_seconds(system) == 2.5
    write(tmp_path, {"proc/pressure/memory": ""})
    assert stalled_seconds(system) is None


def test_the_recorded_pi_has_no_programs_of_this_machine(tmp_path):
    assert System.of(write(tmp_path, PI5)).run(["ls"]) is None
