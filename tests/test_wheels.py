"""What the wheels need is named before they are imported."""

from __future__ import annotations

import importlib.util
import platform
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from edgelm.errors import DependencyError, DeviceError
from edgelm.machine import wheels
from edgelm.machine.host import CpuInfo, read_cpu

HERE = read_cpu()


def cpu(arch: str, *features: str) -> CpuInfo:
    return replace(HERE, arch=arch, features=frozenset(features))


@pytest.mark.parametrize(
    ("machine", "said", "todo"),
    [
        ({"arch": "armv7l"}, "this is armv7l", "64-bit system"),
        ({"arch": "riscv64"}, "this is riscv64", "another machine"),
        ({"arch": "aarch64", "wide": False}, "a 32-bit program", "64-bit"),
        ({"arch": "x86_64", "python": (3, 10)}, "this is 3.10", "newer Python"),
        ({"arch": "x86_64", "libc": ""}, "need glibc 2.28", "Debian"),
        ({"arch": "aarch64", "libc": "musl"}, "this system has musl", "Debian"),
    ],
)
def test_machines_without_wheels(machine, said, todo):
    (found,) = wheels.obstacles(**machine)
    assert said in found.problem
    assert todo in found.todo


def test_this_machine_has_wheels():
    assert wheels.obstacles(platform.machine(), libc=platform.libc_ver()[0]) == []
    wheels.require()


@pytest.mark.parametrize(
    ("core", "missing"),
    [
        (cpu("x86_64", "sse4_2", "avx", "avx2"), None),
        (cpu("x86_64", "sse4_2"), "avx"),
        (cpu("x86_64"), "sse4_2 and avx"),
        (cpu("aarch64", "fp", "asimd"), None),
        (cpu("aarch64", "fp"), "asimd"),
        (replace(HERE, features=None), None),
    ],
)
def test_instructions_that_are_missing(core, missing):
    assert wheels.lacking(core) == missing


@pytest.mark.parametrize(("code", "told"), [(-signal.SIGILL, True), (0, False), (1, False)])
def test_an_old_core_is_tried_in_a_process_of_its_own(monkeypatch, code, told):
    monkeypatch.setattr(wheels, "probe", lambda: code)
    old = cpu("x86_64", "sse4_2")
    if not told:
        wheels.require(old)
        return
    with pytest.raises(DeviceError, match="this core has no avx: importing onnxruntime ends in SIGILL"):
        wheels.require(old)


def test_without_onnxruntime_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match="onnxruntime is not installed") as raised:
        wheels.require()
    assert raised.value.hint == "pip install onnxruntime"
    monkeypatch.setattr(platform, "machine", lambda: "armv7l")
    with pytest.raises(DependencyError, match="is not installed: this is armv7l"):
        wheels.require()


def test_onnxruntime_is_not_imported_before_the_check():
    script = (
        "import sys\nfrom edgelm.machine import wheels\nfrom edgelm.errors import DeviceError\n"
        "def refuse(cpu=None):\n    assert 'onnxruntime' not in sys.modules\n    raise DeviceError('old core')\n"
        "wheels.require = refuse\n"
        "from edgelm.cli import main\nsys.exit(main(['run', sys.argv[1], '-p', 'x']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, "nowhere"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
