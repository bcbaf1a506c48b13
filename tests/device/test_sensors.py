"""What slows a processor down."""

import pytest

from edgelm.device import sensors

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


def test_a_cool_and_well_fed_pi(machine):
    root = machine("rpi5")
    assert sensors.governors(root) == {"ondemand"}
    assert sensors.capped_clock(root) is None
    assert sensors.temperature(root) == 51.2
    assert sensors.throttling(root) == ([], [])
    assert not sensors.cooled_by_slowing(root)


def test_what_the_firmware_of_a_pi_reports(machine):
    assert sensors.throttling(machine("rpi5", {THROTTLED: "50005\n"})) == (["under-voltage", "throttled"], [])
    assert sensors.throttling(machine("rpi5", {THROTTLED: "80000\n"})) == ([], ["soft temperature limit"])
    assert sensors.throttling(machine("rpi5", {THROTTLED: "nonsense"})) is None


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo throttled=0x50005", (["under-voltage", "throttled"], [])),
        ("echo throttled=0x0", ([], [])),
        ("echo 'VCHI initialization failed'; exit 1", None),
        ("exit 127", None),
    ],
)
def test_the_firmwares_tool(tmp_path, monkeypatch: pytest.MonkeyPatch, script: str, found: object):
    tool = tmp_path / "vcgencmd"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert sensors.throttling() == found


def test_without_thermal_zones_the_hardware_monitors_tell(machine):
    assert sensors.temperature(machine(files={"sys/class/hwmon/hwmon0/temp1_input": "61000\n"})) == 61.0


def test_newer_kernels_tell_only_under_voltage(machine):
    hwmon = {"sys/class/hwmon/hwmon1/name": "rpi_volt\n", "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1\n"}
    assert sensors.throttling(machine("rpi4", hwmon)) == (["under-voltage"], [])


def test_a_capped_clock(machine):
    root = machine("rpi5", {"sys/devices/system/cpu/cpu2/cpufreq/scaling_max_freq": "1500000\n"})
    assert sensors.capped_clock(root) == (1_500_000, 2_400_000)


@pytest.mark.parametrize(("state", "slowed"), [("0", False), ("3", True), ("?", False)])
def test_the_kernel_cools_by_slowing(machine, state: str, slowed: bool):
    device = "sys/class/thermal/cooling_device0"
    root = machine("rpi5", {f"{device}/type": "thermal-cpufreq-0\n", f"{device}/cur_state": state})
    assert sensors.cooled_by_slowing(root) is slowed


def test_a_turning_fan_is_not_a_slow_clock(machine):
    device = "sys/class/thermal/cooling_device0"
    assert not sensors.cooled_by_slowing(machine(files={f"{device}/type": "pwm-fan\n", f"{device}/cur_state": "4"}))


def test_broken_sensors_are_left_out(machine):
    zone = "sys/class/thermal/thermal_zone{}/temp"
    root = machine(
        files={zone.format(0): "48000", zone.format(1): "-274000", zone.format(2): "255000", zone.format(3): "x"}
    )
    assert sensors.temperature(root) == 48.0


def test_a_machine_without_sensors(machine):
    root = machine()
    assert sensors.governors(root) == frozenset()
    assert sensors.capped_clock(root) is None
    assert sensors.temperature(root) is None
    assert sensors.throttling(root) is None
