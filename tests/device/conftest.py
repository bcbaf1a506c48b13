"""Machines made of files: the /proc and /sys of boards that are not here."""

from collections.abc import Callable
from pathlib import Path

import pytest

MachineTree = Callable[..., Path]

A53 = "fp asimd evtstrm crc32 cpuid"
A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
A710 = A76 + " sve sve2 i8mm bf16"


def arm_cpuinfo(*cores: tuple[str, str]) -> str:
    """/proc/cpuinfo of ARM cores, each given by its part number and its features."""
    return "\n".join(
        f"processor\t: {i}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: {part}\nCPU revision\t: 1\n"
        for i, (part, features) in enumerate(cores)
    )


def meminfo(total_mb: int, available_mb: int, swap_mb: int = 0, swap_free_mb: int = 0) -> str:
    return (
        f"MemTotal:       {total_mb << 10:8} kB\nMemFree:        {1 << 10:8} kB\nMemAvailable:   {available_mb << 10:8} kB\n"
        f"SwapTotal:      {swap_mb << 10:8} kB\nSwapFree:       {swap_free_mb << 10:8} kB\nHugePages_Total:       0\n"
    )


PI5 = {
    "proc/cpuinfo": arm_cpuinfo(*[("0xd0b", A76)] * 4),
    "proc/meminfo": meminfo(8062, 7400, 512, 512),
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    **{f"sys/devices/system/cpu/cpu{i}/cpufreq/scaling_governor": "ondemand\n" for i in range(4)},
    **{f"sys/devices/system/cpu/cpu{i}/cpufreq/cpuinfo_max_freq": "2400000\n" for i in range(4)},
    **{f"sys/devices/system/cpu/cpu{i}/cpufreq/scaling_max_freq": "2400000\n" for i in range(4)},
    "sys/class/thermal/thermal_zone0/temp": "51200\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
}
PI4 = {
    "proc/cpuinfo": arm_cpuinfo(*[("0xd08", A53)] * 4),
    "proc/meminfo": meminfo(3792, 3400),
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
}
ZERO2W = {
    "proc/cpuinfo": arm_cpuinfo(*[("0xd03", A53)] * 4),
    "proc/meminfo": meminfo(416, 290, 1024, 900),
    "proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 425984 10240 100\n/var/swap file 622592 0 -2\n",
    "proc/device-tree/model": "Raspberry Pi Zero 2 W Rev 1.0\0",
}
RK3588 = {  # the LITTLE cores come first, and no board of ours
    "proc/cpuinfo": arm_cpuinfo(*[("0xd05", A76)] * 4, *[("0xd0b", A76)] * 4),
    "proc/meminfo": meminfo(15900, 15000),
    "proc/device-tree/model": "Radxa ROCK 5B\0",
    **{f"sys/devices/system/cpu/cpu{i}/cpu_capacity": "530\n" for i in range(4)},
    **{f"sys/devices/system/cpu/cpu{i}/cpu_capacity": "1024\n" for i in range(4, 8)},
    **{f"sys/devices/system/cpu/cpu{i}/cpufreq/cpuinfo_max_freq": "1800000\n" for i in range(4)},
    **{f"sys/devices/system/cpu/cpu{i}/cpufreq/cpuinfo_max_freq": "2400000\n" for i in range(4, 8)},
}
PHONE = {  # Snapdragon 8 Gen 2: 3 x A510, 2 x A715, 2 x A710, 1 x X3
    "proc/cpuinfo": arm_cpuinfo(
        *[("0xd46", A710)] * 3, *[("0xd4d", A710)] * 2, *[("0xd47", A710)] * 2, *[("0xd4e", A710)] * 1
    ),
    "proc/meminfo": meminfo(11400, 5200),
    "system/build.prop": "ro.product.cpu.abi=arm64-v8a\n",
}
JETSON = {
    "proc/cpuinfo": arm_cpuinfo(*[("0xd42", A76)] * 6),
    "proc/meminfo": meminfo(7620, 6100),
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
}
LAPTOP = {  # 2 cores, 4 hyperthreads
    "proc/cpuinfo": "\n".join(
        f"processor\t: {i}\nvendor_id\t: GenuineIntel\nmodel name\t: Core i5\nflags\t\t: fpu sse2 sse4_2 avx fma avx2 f16c avx_vnni\n"
        for i in range(4)
    ),
    "proc/meminfo": meminfo(15800, 12000),
    **{f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": f"{i % 2},{i % 2 + 2}\n" for i in range(4)},
}
BOARDS = {
    "rpi5": PI5,
    "rpi4": PI4,
    "rpi-zero2w": ZERO2W,
    "rk3588": RK3588,
    "phone": PHONE,
    "jetson": JETSON,
    "laptop": LAPTOP,
}


@pytest.fixture
def machine(tmp_path: Path) -> MachineTree:
    """``machine("rpi5", {"proc/meminfo": …})``: a folder with the files of a board, some of them replaced."""

    def write(board: str | None = None, files: dict[str, str] | None = None) -> Path:
        root = tmp_path / "root"
        for name, content in {**(BOARDS[board] if board else {}), **(files or {})}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        root.mkdir(exist_ok=True)
        return root

    return write
