"""Can onnxruntime's wheel run here at all? Asked before it is imported: it would end the process with SIGILL.

Nothing is looked into on a machine with what every wheel needs; the check costs less than a millisecond there.
"""

from __future__ import annotations

import importlib.util
import platform
import signal
import sys
from dataclasses import dataclass

from edgelm.errors import DependencyError, DeviceError
from edgelm.machine.host import CpuInfo, read_cpu

ARCHITECTURES = ("x86_64", "aarch64")
PYTHON = (3, 11)
_PROBE = "import numpy, onnxruntime"


@dataclass(frozen=True)
class Obstacle:
    """What stands in the way, and what to do about it."""

    problem: str
    todo: str


def obstacles(
    arch: str, *, python: tuple[int, ...] = sys.version_info[:2], wide: bool = sys.maxsize > 2**32, libc: str = "glibc"
) -> list[Obstacle]:
    """Why there is no wheel for a machine.

    Args:
        arch: as platform.machine() says it.
        python: version.
        wide: Python is a 64-bit program.
        libc: as platform.libc_ver() says it.
    """
    found = []
    if arch not in ARCHITECTURES:
        known = " and ".join(ARCHITECTURES)
        found.append(
            Obstacle(
                f"this is {arch or 'an unknown architecture'}, and onnxruntime has wheels for {known} alone",
                "a Raspberry Pi 3 or later runs the 64-bit system" if arch.startswith("arm") else "use another machine",
            )
        )
    elif not wide:
        found.append(
            Obstacle(
                "this Python is a 32-bit program, and onnxruntime has 64-bit wheels alone", "install a 64-bit system"
            )
        )
    if python < PYTHON:
        found.append(
            Obstacle(
                f"onnxruntime has wheels for Python 3.11 and later, this is {'.'.join(map(str, python))}",
                "install a newer Python",
            )
        )
    if libc != "glibc":
        found.append(
            Obstacle(
                f"onnxruntime's wheels need glibc 2.28 or later, this system has {libc or 'another C library (musl?)'}",
                "use a Debian- or Ubuntu-based system or image; in Termux: proot-distro install debian",
            )
        )
    return found


def lacking(cpu: CpuInfo) -> str | None:
    """The instructions that a core lacks and the wheels may use; None where it has them, or is not known."""
    if cpu.features is None:
        return None
    needed = {"x86_64": ("sse4_2", "avx"), "aarch64": ("asimd",)}.get(cpu.arch, ())
    missing = [name for name in needed if name not in cpu.features]
    return " and ".join(missing) or None


def require(cpu: CpuInfo | None = None) -> None:
    """Raise unless onnxruntime can be imported here.

    A core without the usual instructions is tried in a process of its own, as some builds run there all the same.

    Raises:
        DependencyError: onnxruntime is not installed, and why it may not be.
        DeviceError: this core lacks what it needs.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        found = obstacles(platform.machine(), libc=platform.libc_ver()[0])
        if found:
            raise DependencyError(f"onnxruntime is not installed: {found[0].problem}", hint=found[0].todo)
        raise DependencyError("onnxruntime is not installed", hint="pip install onnxruntime")
    missing = lacking(cpu or read_cpu())
    if missing is None:
        return
    ended = probe()
    if ended in (-signal.SIGILL, -signal.SIGSEGV, -signal.SIGBUS):
        raise DeviceError(
            f"this core has no {missing}: importing onnxruntime ends in {signal.Signals(-ended).name}",
            hint="its wheels are made for newer cores: use another machine, or build onnxruntime for this one",
        )


def probe() -> int:
    """The exit code of a process that imports what the wheels bring."""
    import subprocess  # here: it takes milliseconds, and is for old cores alone

    command = [sys.executable, "-c", f"import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; {_PROBE}"]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
