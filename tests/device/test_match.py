"""Which target fits a machine."""

import pytest

from edgelm.machine.host import read_cpu, read_memory
from edgelm.target.match import best_target, is_android


@pytest.mark.parametrize(
    ("board", "target"),
    [
        ("rpi5", "rpi5"),
        ("rpi4", "rpi4"),
        ("rpi-zero2w", "rpi-zero2w"),
        ("jetson", "jetson-orin-nano"),
        ("rk3588", "rpi5"),  # no target of its own: the same big cores
        ("phone", "android-arm64-i8mm"),
        ("laptop", "x86-64"),
    ],
)
def test_the_target_of_a_board(machine, board: str, target: str):
    root = machine(board)
    best = best_target(read_cpu(root), read_memory(root), android=is_android(root))
    assert best is not None
    assert best.name == target


def test_a_phone_with_the_cores_of_a_pi_is_a_phone(machine):
    root = machine("rk3588", {"system/build.prop": "", "proc/device-tree/model": ""})
    assert is_android(root)
    best = best_target(read_cpu(root), read_memory(root), android=True)
    assert best is not None
    assert best.name == "android-arm64"


def test_cores_without_dotprod_and_without_a_name_are_told_by_memory(machine):
    unnamed = {
        "proc/device-tree/model": "Some TV box",
        "proc/cpuinfo": "processor: 0\nFeatures: fp asimd crc32\nCPU part: 1",
    }
    big = machine("rpi4", unnamed)
    assert best_target(read_cpu(big), read_memory(big)).name == "rpi4"  # type: ignore[union-attr]
    small = machine("rpi-zero2w", unnamed)
    assert best_target(read_cpu(small), read_memory(small)).name == "rpi-zero2w"  # type: ignore[union-attr]


def test_no_target_for_a_machine_that_is_not_known(machine):
    root = machine()
    assert best_target(read_cpu(root), read_memory(root)) is None
    old = machine("laptop", {"proc/cpuinfo": "processor: 0\nflags: fpu sse2\n"})
    assert best_target(read_cpu(old), read_memory(old)) is None
