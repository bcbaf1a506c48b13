"""A private Python environment on the board: wheels chosen for it, put there once."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from edgelm.emulate.sandbox import requirements
from edgelm.errors import DependencyError, DeviceError, RemoteError
from edgelm.files import temporary_folder
from edgelm.machine.wheels import obstacles
from edgelm.remote.session import OnBytes, Session

_GLIBC = (17, 24, 26, 27, 28, 31, 34, 35, 39)  # manylinux_2_N: pip takes no older tag by itself
_ROOM = 600 << 20  # bytes that the environment takes, packed and unpacked
_UNUSED = 14 * 86_400  # seconds after which an environment of another edgelm, or of other wheels, goes
_EXTRAS = ("llguidance",)  # taken along where it is installed here: constrained decoding


@dataclass(frozen=True)
class Environment:
    """What a program of edgelm needs there.

    Attributes:
        variables: of its environment.
        python: the interpreter.
    """

    variables: Mapping[str, str]
    python: str


def check(facts: Mapping[str, Any], name: str) -> None:
    """Raise DeviceError where edgelm cannot run on such a board: its architecture, Python or C library."""
    found = obstacles(
        str(facts["arch"]), python=tuple(facts["python"]), wide=bool(facts["wide"]), libc=str(facts["libc"] or "")
    )
    if found:
        raise DeviceError(f"{name}: {found[0].problem}", hint=found[0].todo)
    if _minor(facts) < 28:
        raise DeviceError(
            f"{name}: onnxruntime's wheels need glibc 2.28 or later, this system has {facts['libc_version']}",
            hint="use a newer system image",
        )


def prepare(session: Session, wheels: Path | None, say: Callable[[str], None], on_bytes: OnBytes) -> Environment:
    """Put the environment there, if it is not: the wheels in one folder for their versions, edgelm in one for its content.

    Environments of other versions go once nobody has used them for two weeks: another host may have another edgelm.

    Args:
        session: the board, which `check` has let pass.
        wheels: a folder to take wheels from in place of the network; None asks pip.
        say: is told what is done.
        on_bytes: is called with the bytes sent.

    Raises:
        DependencyError: a wheel is not to be had.
        RemoteError: the board is full, or the connection was lost.
    """
    facts = session.facts
    python = f"{facts['python'][0]}.{facts['python'][1]}"
    pins = [*requirements(), *_extras()]
    tags = _platforms(facts)
    key = hashlib.sha256(json.dumps([tags, python, pins]).encode()).hexdigest()[:12]
    with tempfile.TemporaryDirectory(prefix="edgelm-remote-") as folder:
        package = _package(Path(folder))
        site, own = f"{session.base}/site-{key}", f"{session.base}/edgelm-{package.name.partition('.')[0]}"
        session.call("tidy", base=session.base, keep=[site, own], age=_UNUSED)
        there = session.have([site, own])
        if there[own][0] < 0:
            say(f"sending edgelm to {session.place.name}")
            session.put({package: f"{session.base}/{package.name}"}, on_bytes)
            session.call("unpack", archives=[f"{session.base}/{package.name}"], folder=own)
        if there[site][0] < 0:
            if facts["free"] < _ROOM:
                raise RemoteError(
                    f"{session.place.name} is full: {facts['free'] >> 20} MB free, the environment takes {_ROOM >> 20}",
                    hint="make room there, then run it again",
                )
            say(f"fetching wheels for {facts['arch']} and Python {python}")
            archive = _wheels(pins, str(facts["arch"]), tags, python, wheels, key)
            say(f"sending {archive.stat().st_size / 1e6:.0f} MB of wheels to {session.place.name}, this once")
            session.put({archive: f"{session.base}/{archive.name}"}, on_bytes)
            session.call("unpack", archives=[f"{session.base}/{archive.name}"], folder=site)
    variables = {
        "PYTHONPATH": f"{own}:{site}",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "EDGELM_RESULTS": "off",  # they are kept here
        "EDGELM_PROGRESS": "lines",
    }
    return Environment(variables, str(facts["executable"]))


def _platforms(facts: Mapping[str, Any]) -> list[str]:
    """The platforms whose wheels fit the board's processor and C library, the newest first."""
    arch = facts["arch"]
    return [*(f"manylinux_2_{n}_{arch}" for n in reversed(_GLIBC) if n <= _minor(facts)), f"manylinux2014_{arch}"]


def _wheels(pins: list[str], arch: str, tags: list[str], python: str, source: Path | None, key: str) -> Path:
    """A tar file of the wheels, fetched once and kept in the cache."""
    archive = _cache() / f"wheels-{key}.tar"
    if archive.is_file():
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(archive.parent, "wheels-") as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--dest",
            str(folder),
        ]
        command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
        command += [f"--platform={tag}" for tag in tags]
        command += [] if source is None else ["--no-index", f"--find-links={source.absolute()}"]
        done = subprocess.run([*command, *pins], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            if "No module named pip" in done.stderr:
                raise DependencyError("pip is not installed here", hint=f"{sys.executable} -m ensurepip")
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip fails"]
            hint = "is the network there? elsewhere: pip download, then --offline-wheels FOLDER"
            raise DependencyError(f"wheels for {arch}, Python {python}: {said[0].removeprefix('ERROR: ')}", hint=hint)
        with tarfile.open(folder / "all.tar", "w") as tar:
            for wheel in sorted(folder.glob("*.whl")):
                tar.add(wheel, wheel.name)
        (folder / "all.tar").replace(archive)
    return archive


def _package(folder: Path) -> Path:
    """This edgelm as a tar file, called by its content."""
    package = Path(__file__).resolve().parents[1]
    targets = package / "_targets" if (package / "_targets").is_dir() else package.parent / "targets"
    files = {
        f"edgelm/{f.relative_to(package)}": f
        for f in package.rglob("*")
        if f.is_file() and "__pycache__" not in f.parts
    }
    files |= {f"edgelm/_targets/{f.name}": f for f in targets.glob("*.toml")}
    found = hashlib.sha256()
    for name, file in sorted(files.items()):
        found.update(f"{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    path = folder / f"{found.hexdigest()[:12]}.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=6) as tar:
        for name, file in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = file.stat().st_size, 0o644
            with file.open("rb") as source:
                tar.addfile(entry, source)
    return path


def _extras() -> list[str]:
    found = []
    for name in _EXTRAS:
        try:
            found.append(f"{name}=={metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found


def _minor(facts: Mapping[str, Any]) -> int:
    parts = str(facts["libc_version"]).split(".")
    return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "edgelm" / "remote"
