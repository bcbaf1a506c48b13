"""The doctor's findings, and what it says about a bundle."""

import platform
import tomllib
from pathlib import Path
from typing import Any

import pytest
from manifests import manifest

from edgelm.bundle.manifest import Manifest
from edgelm.device import doctor
from edgelm.device.bandwidth import read_bandwidth
from edgelm.device.bundle_check import bundle_findings
from edgelm.device.doctor import diagnose
from edgelm.device.finding import Finding
from edgelm.machine.host import read_cpu, read_memory
from edgelm.target.target import load_target

MB = 1 << 20


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def examine(root: Path) -> dict[str, Finding]:
    return by_name(diagnose(root, measure=False))


def test_a_healthy_pi_5(machine):
    found = examine(machine("rpi5"))
    assert {finding.level for finding in found.values()} == {"ok"}
    assert found["cpu"].detail == "4 x cortex-a76 2.4 GHz"
    assert found["instructions"].detail == "dotprod fp16 (without i8mm sve sve2 bf16)"
    assert found["threads"].detail == "3"
    assert found["memory"].detail == "7.8 GB free of 8.5 GB"
    assert found["target"].detail == "rpi5: edgelm export MODEL --target rpi5"


def test_a_pi_4_is_told_to_use_int8(machine):
    instructions = examine(machine("rpi4"))["instructions"]
    assert instructions.level == "warn"
    assert "--quant int8" in (instructions.todo or "")


def test_big_little_in_a_container(machine):
    limits = {
        "sys/fs/cgroup/cpu.max": "200000 100000",
        "sys/fs/cgroup/memory.max": str(2048 * MB),
        "sys/fs/cgroup/memory.current": str(48 * MB),
    }
    found = examine(machine("rk3588", limits))
    assert found["cpu"].detail == "4 x cortex-a76 2.4 GHz, 4 x cortex-a55 1.8 GHz (LITTLE)"
    assert found["threads"].detail == "2 · quota of 2 CPUs"
    assert found["memory"].detail == "2.1 GB free of 16.7 GB · limit of this container: 2.1 GB"


@pytest.mark.parametrize(
    ("files", "what", "detail"),
    [
        (
            {"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave"},
            "governor",
            "powersave holds the clock",
        ),
        ({"sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1500000"}, "clock", "limited to 1.50 of 2.40 GHz"),
        ({"sys/class/thermal/thermal_zone0/temp": "84000"}, "temperature", "84 °C"),
        (
            {"sys/devices/platform/soc/soc:firmware/get_throttled": "50005"},
            "throttling",
            "now: under-voltage, throttled",
        ),
        (
            {"sys/devices/platform/soc/soc:firmware/get_throttled": "50000"},
            "throttling",
            "earlier since boot: under-volt",
        ),
        ({"proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 100000 kB\n"}, "memory", "102 MB free of 8.2 GB"),
        (
            {"proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 900 kB\nSwapTotal: 2000 kB\nSwapFree: 0 kB\n"},
            "swap",
            "2 MB of 2 MB used",
        ),
    ],
)
def test_what_slows_a_board_is_a_warning_with_a_remedy(machine, files: dict[str, str], what: str, detail: str):
    finding = examine(machine("rpi5", files))[what]
    assert finding.level == "warn"
    assert finding.detail.startswith(detail)
    assert finding.todo


def test_an_intel_laptop_in_powersave_is_not_slow(machine):
    folder = "sys/devices/system/cpu/cpu0/cpufreq"
    files = {f"{folder}/scaling_governor": "powersave", f"{folder}/scaling_driver": "intel_pstate"}
    assert examine(machine("laptop", files))["governor"].level == "ok"


def test_a_machine_that_tells_nothing_is_examined_all_the_same(machine):
    found = examine(machine())
    assert found["instructions"].level == "warn"
    assert found["target"].level == "warn"
    assert "fail" not in {finding.level for finding in found.values()}


def test_packages_missing_or_old():
    found = by_name(doctor.package_findings({"numpy": "1.26", "click": "99.0", "no-such-package": "1.0"}))
    assert found["numpy"].level == "ok"
    assert (found["click"].level, found["click"].todo) == ("fail", "pip install 'click>=99.0'")
    assert (found["no-such-package"].level, found["no-such-package"].detail) == ("fail", "not installed")


def test_the_packages_are_those_of_pyproject():
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    needed = [package.partition(",")[0] for package in pyproject["project"]["dependencies"]]
    assert [f"{name}>={least}" for name, least in doctor.REQUIRED.items()] == needed


def test_android_and_musl_have_no_wheels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    libc = by_name(doctor.software_findings(android=True))["libc"]
    assert libc.level == "warn"
    assert "proot-distro" in (libc.todo or "")


def test_bandwidth_is_measured_within_its_time():
    measured = read_bandwidth(1, 200 * MB, seconds=0.1)
    assert measured is not None
    assert 0.05 < measured < 2000
    assert read_bandwidth(1, 10 * MB) is None, "too little memory to tell"


@pytest.mark.parametrize(("measured", "level"), [(12.0, "ok"), (3.0, "warn")])
def test_bandwidth_is_compared_with_the_boards(measured: float, level: str):
    (finding,) = doctor.bandwidth_findings(measured, 4, load_target("rpi5"))
    assert finding.level == level
    assert f"{measured:.1f} GB/s read with 4 threads (rpi5: 11.3 in decode)" == finding.detail


def test_an_emulated_core_has_no_bandwidth_of_its_own(machine):
    cpu = read_cpu(machine("laptop"), arch="aarch64")
    assert cpu.emulated
    assert doctor.cpu_findings(cpu)[0].detail.endswith("(emulated)")
    (finding,) = doctor.bandwidth_findings(0.1, 4, load_target("rpi5"), emulated=True)
    assert finding.level == "ok"
    assert "says nothing of a board" in finding.detail
    assert not read_cpu(machine("rpi5")).emulated


def test_what_cannot_be_found_out_comes_with_what_to_do(machine):
    for finding in examine(machine()).values():
        assert finding.level == "ok" or finding.todo, finding


@pytest.mark.parametrize(("release", "jetpack"), [("# R36 (release), REVISION: 4.3", "JetPack 6"), ("nonsense", None)])
def test_a_jetson_without_the_gpus_onnxruntime(machine, release: str, jetpack: str | None):
    found = examine(machine("jetson", {"etc/nv_tegra_release": release}))["cuda"]
    assert found.level == "warn"
    assert ("on JetPack 6" in found.detail) == (jetpack is not None)
    assert "README" in (found.todo or "")


def test_a_core_without_what_the_wheels_use(machine):
    old = {"proc/cpuinfo": "processor: 0\nflags: fpu sse2 sse4_2\n"}
    found = examine(machine("laptop", old))["instructions"]
    assert (found.level, found.detail) == ("warn", "without avx")


# --- bundles ------------------------------------------------------------------------------------------------------


def made_for(target: str, quant: str = "int4", total_bytes: int = MB, **more: Any) -> Manifest:
    board = load_target(target)
    memory = dict.fromkeys(("weights_bytes", "kv_bytes_per_token", "kv_bytes"), 0) | {"total_bytes": total_bytes}
    made = {"target": target, "provider": board.runtime.provider, "quant": quant, "memory": memory}
    return manifest(**made, recipe=board.recipe(quant).to_dict(), **more)


def judge(root: Path, bundle: Manifest) -> dict[str, Finding]:
    return by_name(bundle_findings(bundle, read_cpu(root), read_memory(root)))


def test_a_bundle_made_for_this_board(machine):
    found = judge(machine("rpi5"), made_for("rpi5", total_bytes=500 * MB))
    assert {finding.level for finding in found.values()} == {"ok"}
    assert found["recipe"].detail == "GatherBlockQuantized, MatMulNBits suit this core"
    assert found["fits"].detail == "needs 524 MB"


def test_int4_on_a_core_without_dotprod(machine):
    recipe = judge(machine("rpi4"), made_for("rpi5"))["recipe"]
    assert recipe.level == "warn"
    assert (
        recipe.detail
        == "MatMulNBits weights, but cortex-a72 has no dotprod: 6x the work of int8 by DynamicQuantizeMatMul"
    )
    assert recipe.todo == "edgelm export org/model --target rpi4 --quant int8"


def test_per_channel_int8_on_a_core_with_i8mm(machine):
    recipe = judge(machine("phone"), made_for("rpi5", "int8"))["recipe"]
    assert recipe.level == "ok"  # twice the work in decode, which reading binds, and less in prefill


def test_a_bundle_for_another_architecture(machine):
    found = judge(machine("laptop"), made_for("rpi5"))["made for"]
    assert found.level == "warn"
    assert found.detail.startswith("rpi5 (aarch64); this machine is x86_64")
    assert found.todo == "edgelm export org/model --target x86-64 --quant int4"


def test_a_cuda_bundle_on_a_board_without_it(machine):
    assert judge(machine("rpi5"), made_for("jetson-orin-nano"))["made for"].level == "warn"
    assert judge(machine("jetson"), made_for("jetson-orin-nano"))["made for"].level == "ok"


@pytest.mark.parametrize(("need_mb", "level"), [(200, "ok"), (350, "warn"), (900, "fail")])
def test_does_it_fit(machine, need_mb: int, level: str):
    """A Zero 2 W: 416 MB, 290 of them free."""
    assert judge(machine("rpi-zero2w"), made_for("rpi-zero2w", "int8", need_mb * MB))["fits"].level == level


def test_a_target_of_ones_own_is_not_judged(machine):
    assert {finding.level for finding in judge(machine("rpi5"), manifest(target="myboard")).values()} == {"ok"}


def test_a_bundle_that_cannot_be_opened_fails(machine, tmp_path: Path):
    findings = diagnose(machine("rpi5"), bundle=tmp_path / "none", measure=False)
    assert (findings[-1].level, findings[-1].what) == ("fail", "bundle")
    assert findings[-1].todo
