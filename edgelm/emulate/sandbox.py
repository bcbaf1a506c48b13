"""The sandbox: QEMU, an aarch64 system of a few libraries and Python, and edgelm's dependencies as aarch64 wheels.

It is made once and kept in the user's cache folder, one for each set of versions. apt checks packages by the
archive's signature, pip checks wheels by their hash; both hashes are written into sandbox.json.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from edgelm.emulate import debian
from edgelm.errors import DependencyError, DeviceError
from edgelm.files import swept_folder

MAKING = ".making-"  # how a folder is called until it is whole
_LAYOUT = 1  # raise it when what stands in the folder changes
_RECORD = "sandbox.json"
_GLIBC = (17, 24, 26, 27, 28)  # manylinux_2_N: pip takes no older tag by itself
_SMOKE = "import numpy, onnxruntime, tokenizers, click, jinja2, json; print(onnxruntime.__version__)"


@dataclass(frozen=True)
class Sandbox:
    """A sandbox that is whole.

    Attributes:
        folder: where it stands.
    """

    folder: Path

    @property
    def qemu(self) -> Path:
        """QEMU's program for aarch64 processes."""
        return self.folder / "qemu-aarch64"

    @property
    def root(self) -> Path:
        """The aarch64 system's files."""
        return self.folder / "root"

    @property
    def site(self) -> Path:
        """The aarch64 wheels."""
        return self.folder / "site"

    @property
    def python(self) -> Path:
        """The aarch64 Python."""
        return self.root / "usr/bin" / debian.PYTHON

    @cached_property
    def cores(self) -> tuple[str, ...]:
        """The names of the cores that this QEMU knows."""
        # QEMU ends with 1 after its help.
        shown = subprocess.run([self.qemu, "-cpu", "help"], capture_output=True, text=True, check=False).stdout
        return tuple(line.strip() for line in shown.splitlines() if line.startswith(" "))

    def record(self) -> dict[str, Any]:
        """What it was made of: Debian packages and wheels, with their SHA-256."""
        found: dict[str, Any] = json.loads((self.folder / _RECORD).read_text())
        return found


def cache_folder() -> Path:
    """Where sandboxes are kept: ``$XDG_CACHE_HOME/edgelm/emulate``, by default under ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "edgelm" / "emulate"


def unsupported() -> str | None:
    """Why there can be no sandbox on this machine, or None."""
    machine = platform.machine()
    if machine in ("aarch64", "arm64"):
        return "this machine is an ARM machine itself: run edgelm without `emulate`"
    if sys.platform != "linux" or machine not in ("x86_64", "AMD64"):
        return f"emulation needs Linux on x86-64, not {sys.platform} on {machine}"
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    return f"emulation needs Debian or Ubuntu: no {' and no '.join(missing)} here" if missing else None


def prepare(mirror: str | None = None, say: Callable[[str], None] = lambda _: None) -> Sandbox:
    """The sandbox for the versions installed here, made first where it is not there yet (about a minute, 300 MB).

    It is written aside, tried, and renamed: a half-made one is never seen. Several processes may ask at once.

    Args:
        mirror: of Debian; None takes the one in apt's sources.
        say: is told what is being done.

    Raises:
        DeviceError: this machine cannot emulate, or a package cannot be had.
        DependencyError: edgelm or pip is not installed.
    """
    if problem := unsupported():
        raise DeviceError(problem)
    pins = requirements()
    folder = cache_folder() / f"aarch64-{_key(pins)}"
    if (folder / _RECORD).is_file():
        return Sandbox(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / "lock"):
        if not (folder / _RECORD).is_file():  # another process may have made it meanwhile
            _make(folder, pins, mirror, say)
    return Sandbox(folder)


def requirements() -> list[str]:
    """What edgelm needs at run time, in the versions installed here."""
    try:
        needed = metadata.requires("edgelm") or []
    except metadata.PackageNotFoundError:
        raise DependencyError("edgelm is not installed, only imported", hint="pip install edgelm") from None
    pins = []
    for line in needed:
        if "extra ==" in line:
            continue
        name = re.match(r"[\w.-]+", line)
        try:
            pins.append(f"{name[0]}=={metadata.version(name[0])}" if name else line)
        except metadata.PackageNotFoundError:  # sold under another name here, as onnxruntime-gpu is
            pins.append(line)
    return sorted(pins)


def _key(pins: list[str]) -> str:
    made_of = json.dumps([_LAYOUT, debian.SUITE, debian.PYTHON, pins])
    return hashlib.sha256(made_of.encode()).hexdigest()[:12]


def _make(folder: Path, pins: list[str], mirror: str | None, say: Callable[[str], None]) -> None:
    with swept_folder(folder.parent, MAKING) as place:
        made, work = Sandbox(place / "sandbox"), place / "work"
        made.root.mkdir(parents=True)
        work.mkdir()
        say(f"downloading QEMU and {debian.PYTHON} for aarch64 from Debian {debian.SUITE} (90 MB)")
        packages = debian.unpack(work, mirror, made.qemu, made.root)
        say("downloading the aarch64 wheels (60 MB)")
        wheels = _install(pins, made.site, work / "report.json")
        say("trying it")
        _try(made)
        record = {
            "suite": debian.SUITE,
            "packages": [{"file": p.name, "sha256": _sha256(p)} for p in packages],
            "wheels": wheels,
        }
        (made.folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)  # one without its record is not whole
        made.folder.rename(folder)
    say(f"ready in {folder}")


def _install(pins: list[str], site: Path, report: Path) -> list[dict[str, str]]:
    """Unpack the aarch64 wheels into `site`; their names, versions and hashes."""
    version = debian.PYTHON.removeprefix("python")
    platforms = [f"--platform=manylinux_2_{n}_aarch64" for n in reversed(_GLIBC)] + ["--platform=manylinux2014_aarch64"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    command += ["--target", str(site), "--report", str(report), "--only-binary=:all:", "--implementation=cp"]
    command += [f"--python-version={version}", *platforms, *pins]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        if "No module named pip" in done.stderr:
            raise DependencyError("pip is not installed here", hint=f"{sys.executable} -m ensurepip")
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip fails"]
        raise DeviceError(
            f"the aarch64 wheels cannot be had: {said[0].removeprefix('ERROR: ')}",
            hint="is the network there? does a wheel of that version exist for aarch64?",
        )
    return [
        {
            "name": item["metadata"]["name"],
            "version": item["metadata"]["version"],
            "sha256": item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256", ""),
        }
        for item in json.loads(report.read_text())["install"]
    ]


def _try(made: Sandbox) -> None:
    """Load every library once on the plainest core; the first time compiles them too."""
    environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(made.site), "ORT_DISABLE_TELEMETRY": "1"}
    command = [str(made.qemu), "-cpu", "cortex-a53", "-L", str(made.root), str(made.python), "-P", "-c", _SMOKE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise DeviceError(
            f"the emulated Python does not work: {said[-1] if said else f'ends with {done.returncode}'}",
            hint="try again; if it stays so, report it with your distribution and processor",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
