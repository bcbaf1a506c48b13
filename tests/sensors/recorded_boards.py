"""What boards show under /sys and /proc, and print, in the form in which each of them does."""

from __future__ import annotations

from pathlib import Path

Tree = dict[str, str]

# vcgencmd pmic_read_adc on a Raspberry Pi 5: amperes of twelve rails, then their volts; two have volts alone.
_PMIC_RAILS = {
    "3V7_WL_SW": (0.0976, 3.7136), "3V3_SYS": (0.1366, 3.3162), "1V8_SYS": (0.1834, 1.8007), "DDR_VDD2": (0.0234, 1.1092),
    "DDR_VDDQ": (0.0, 0.6079), "1V1_SYS": (0.1932, 1.1056), "0V8_SW": (0.3492, 0.8031), "VDD_CORE": (1.2310, 0.7204),
    "3V3_DAC": (0.0002, 3.3068), "3V3_ADC": (0.0003, 3.3105), "0V8_AON": (0.0052, 0.7978), "HDMI": (0.0132, 5.1252),
}  # fmt: skip


def pmic(scale: float = 1.0) -> str:
    """The program's output; `scale` times the amperes."""
    amperes = [f" {name}_A current({i})={a * scale:.8f}A" for i, (name, (a, _)) in enumerate(_PMIC_RAILS.items())]
    volts = [f" {name}_V volt({i + 8})={v:.8f}V" for i, (name, (_, v)) in enumerate(_PMIC_RAILS.items())]
    return "\n".join([*amperes, *volts, "   EXT5V_V volt(24)=5.15232000V", "    BATT_V volt(25)=0.00000000V", ""])


PMIC_WATTS = sum(a * v for a, v in _PMIC_RAILS.values())
_CPU = "sys/devices/system/cpu"


def _cpufreq(cores: range, khz: int, most: int) -> Tree:
    return {
        f"{_CPU}/cpu{i}/cpufreq/{name}": f"{value}\n"
        for i in cores
        for name, value in (("scaling_cur_freq", khz), ("scaling_max_freq", most), ("cpuinfo_max_freq", most))
    }


def _cpuinfo(*parts: str) -> str:
    return "\n".join(
        f"processor\t: {i}\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: {part}\n"
        for i, part in enumerate(parts)
    )


_ZONE = "sys/class/thermal/thermal_zone"
_PRESSURE = (
    "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n"
)

PI5: Tree = {
    "proc/cpuinfo": _cpuinfo(*["0xd0b"] * 4),
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    **_cpufreq(range(4), 2400000, 2400000),
    f"{_ZONE}0/type": "cpu-thermal\n",
    f"{_ZONE}0/temp": "51200\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "2\n",
    "commands/vcgencmd pmic_read_adc": pmic(),
    "commands/vcgencmd get_throttled": "throttled=0x0\n",
    "commands/vcgencmd measure_clock arm": "frequency(0)=2400026112\n",
}
PI4: Tree = {
    "proc/cpuinfo": _cpuinfo(*["0xd08"] * 4),
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    **_cpufreq(range(4), 1800000, 1800000),
    f"{_ZONE}0/type": "cpu-thermal\n",
    f"{_ZONE}0/temp": "60862\n",
    "commands/vcgencmd get_throttled": "throttled=0x50000\n",
    "commands/vcgencmd measure_clock arm": "frequency(48)=1500345728\n",
    "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
    "sys/class/hwmon/hwmon0/temp1_input": "60862\n",
    "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
    "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "0\n",
}
_INA = "sys/class/hwmon/hwmon3"
ORIN: Tree = {
    "proc/cpuinfo": _cpuinfo(*["0xd42"] * 6),
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    **_cpufreq(range(6), 1510400, 1510400),
    **{f"{_ZONE}{i}/type": f"{name}-thermal\n" for i, name in enumerate(("CPU", "GPU", "CV0", "SOC0", "tj"))},
    **{f"{_ZONE}{i}/temp": f"{t}\n" for i, t in enumerate((49500, 47812, -256000, 48093, 49500))},
    f"{_INA}/name": "ina3221\n",
    **{f"{_INA}/in{i}_label": f"{name}\n" for i, name in enumerate(("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"), 1)},
    f"{_INA}/in7_label": "sum of shunt voltages\n",
    **{f"{_INA}/in{i}_input": f"{mv}\n" for i, mv in ((1, 5064), (2, 5064), (3, 5064), (4, 80), (7, 200))},
    **{f"{_INA}/curr{i}_input": f"{ma}\n" for i, ma in ((1, 1176), (2, 264), (3, 288), (4, 1728))},
    "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0\n",
    "sys/class/thermal/cooling_device0/cur_state": "0\n",
    "proc/pressure/memory": _PRESSURE,
}
_BATTERY = "sys/class/power_supply/battery"
PHONE: Tree = {  # Snapdragon 8 Gen 2
    "proc/cpuinfo": _cpuinfo(*["0xd46"] * 3, *["0xd4d"] * 2, *["0xd47"] * 2, "0xd4e"),
    **_cpufreq(range(3), 2016000, 2016000),
    **_cpufreq(range(3, 7), 2803200, 2803200),
    **_cpufreq(range(7, 8), 3187200, 3187200),
    **{f"{_ZONE}{i}/type": f"{name}\n" for i, name in enumerate(("cpu-0-0", "cpu-1-0", "battery", "skin-therm"))},
    **{f"{_ZONE}{i}/temp": f"{t}\n" for i, t in enumerate((61000, 66400, 34100, 39000))},
    f"{_BATTERY}/type": "Battery\n",
    f"{_BATTERY}/status": "Discharging\n",
    f"{_BATTERY}/current_now": "-812000\n",
    f"{_BATTERY}/voltage_now": "3921000\n",
    f"{_BATTERY}/charge_counter": "3412000\n",
    "sys/class/thermal/cooling_device3/type": "thermal-cpufreq-7\n",
    "sys/class/thermal/cooling_device3/cur_state": "0\n",
}
_RAPL = "sys/class/powercap/intel-rapl:0"
LAPTOP: Tree = {
    "proc/cpuinfo": "\n\n".join(
        f"processor\t: {i}\nmodel name\t: Intel Core i7\nflags\t\t: avx avx2" for i in range(4)
    ),
    **{
        path: value
        for i in range(4)
        for path, value in _cpufreq(range(i, i + 1), 2_900_000 + i * 1000, 4_600_000 - i * 100_000).items()
    },
    f"{_ZONE}0/type": "acpitz\n",
    f"{_ZONE}0/temp": "27800\n",
    f"{_ZONE}1/type": "x86_pkg_temp\n",
    f"{_ZONE}1/temp": "55000\n",
    f"{_RAPL}/name": "package-0\n",
    f"{_RAPL}/energy_uj": "262143000000\n",
    f"{_RAPL}/max_energy_range_uj": "262143328850\n",
    f"{_RAPL}:0/name": "core\n",
    f"{_RAPL}:0/energy_uj": "1000\n",
    f"{_CPU}/cpu0/thermal_throttle/package_throttle_count": "12\n",
    f"{_CPU}/cpu0/thermal_throttle/core_throttle_count": "3\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/status": "Discharging\n",
    "sys/class/power_supply/BAT0/power_now": "9100000\n",
    "sys/class/power_supply/BAT0/energy_now": "41000000\n",
    "proc/pressure/memory": _PRESSURE,
}
BOARDS = {"pi5": PI5, "pi4": PI4, "orin": ORIN, "phone": PHONE, "laptop": LAPTOP}


def write(root: Path, files: Tree) -> Path:
    """The tree under `root`; what is there already is replaced file by file."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root
