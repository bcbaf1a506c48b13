"""``edgelm doctor --save``: a target file from what was found; and features from the auxiliary vector."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from edgelm.device.doctor import Examination, examine
from edgelm.device.save import save_target
from edgelm.errors import DeviceError, ExportError
from edgelm.machine.host import read_cpu, read_memory, recommended_threads
from edgelm.machine.hwcap import arm_features
from edgelm.target.target import load_target


def auxv(hwcap: int, hwcap2: int = 0) -> bytes:
    return struct.pack("<8Q", 6, 4096, 16, hwcap, 26, hwcap2, 0, 0)


def write(root: Path, name: str, data: bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return root


# --- the auxiliary vector -----------------------------------------------------------------------------------------


def test_the_features_of_an_arm_process(tmp_path: Path) -> None:
    root = write(tmp_path, "proc/self/auxv", auxv(1 << 1 | 1 << 20 | 1 << 22, 1 << 1 | 1 << 13))
    assert arm_features(root) == {"asimd", "asimddp", "sve", "sve2", "i8mm"}


@pytest.mark.parametrize("data", [b"", b"\0" * 7, auxv(0), b"\xff" * 33])
def test_a_vector_that_makes_no_sense_tells_nothing_or_everything_but_never_raises(tmp_path: Path, data: bytes) -> None:
    found = arm_features(write(tmp_path, "proc/self/auxv", data))
    assert found is None or isinstance(found, frozenset)
    assert arm_features(tmp_path / "elsewhere") is None


def test_under_emulation_cpuinfo_is_another_machines(machine) -> None:
    root = write(machine("laptop"), "proc/self/auxv", auxv(1 << 1 | 1 << 20))
    cpu = read_cpu(root, arch="aarch64")
    assert (cpu.features, cpu.has_dotprod, cpu.has_i8mm) == ({"asimd", "asimddp"}, True, False)
    assert (cpu.core, cpu.model) == (None, None)
    assert read_cpu(machine("laptop")).features >= {"avx2"}  # type: ignore[operator]


def test_without_either_nothing_is_claimed(machine) -> None:
    assert read_cpu(machine("laptop"), arch="aarch64").features is None


def test_the_vector_counts_before_cpuinfo(machine) -> None:
    root = write(machine("rpi5"), "proc/self/auxv", auxv(1 << 1))
    assert read_cpu(root).has_dotprod is False
    assert read_cpu(root).core == "cortex-a76"


# --- saving -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("board", ["rpi5", "rpi4", "rpi-zero2w", "rk3588", "phone", "laptop"])
def test_what_is_saved_loads_and_is_this_machine(machine, tmp_path: Path, board: str) -> None:
    root = machine(board)
    examined = examine(root, measure=False)
    target = save_target(examined, tmp_path / "my board.toml")
    assert target == load_target(tmp_path / "my board.toml")
    assert target.name == "my-board"
    cpu, memory = read_cpu(root), read_memory(root)
    assert (target.cpu.cores, target.cpu.threads) == (len(cpu.cores), recommended_threads(None, cpu))
    assert target.memory.ram_mb == (memory.total or 0) >> 20
    assert target.has_dotprod == bool(cpu.has_dotprod)
    assert examined.target is not None
    assert target.recipes == examined.target.recipes
    assert target.rates is not None
    assert not target.rates.measured
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".toml"] == ["my board.toml"]


def test_the_measured_bandwidth_is_told_as_such(machine, tmp_path: Path) -> None:
    seen = examine(machine("rpi5"), measure=False)
    target = save_target(Examination(seen.cpu, seen.memory, seen.target, 12.345, ()), tmp_path / "b.toml")
    assert target.memory.bandwidth_gbs == 12.35 or target.memory.bandwidth_gbs == 12.34
    assert "Measured by edgelm doctor" in target.memory.source


def test_a_one_core_machine(machine, tmp_path: Path) -> None:
    root = machine(
        files={"proc/cpuinfo": "processor: 0\nflags: avx avx2 fma f16c\n", "proc/meminfo": "MemTotal: 4096 kB"}
    )
    target = save_target(examine(root, measure=False), tmp_path / "one.toml")
    assert (target.cpu.cores, target.cpu.threads, target.memory.ram_mb) == (1, 1, 16)


def test_a_file_that_is_there_stays(machine, tmp_path: Path) -> None:
    path, examined = tmp_path / "b.toml", examine(machine("rpi5"), measure=False)
    path.write_text("mine")
    with pytest.raises(ExportError, match="exists already"):
        save_target(examined, path)
    assert path.read_text() == "mine"
    assert save_target(examined, path, overwrite=True).name == "b"


@pytest.mark.parametrize("name", ["board", "none/b.toml", "folder.toml"])
def test_places_where_nothing_can_be_saved(machine, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ExportError):
        save_target(examine(machine("rpi5"), measure=False), tmp_path / name, overwrite=True)


def test_a_machine_that_tells_nothing_cannot_be_saved(machine, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="not known"):
        save_target(examine(machine(), measure=False), tmp_path / "b.toml")
    assert not (tmp_path / "b.toml").exists()
