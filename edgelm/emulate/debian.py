"""QEMU and an aarch64 Python out of Debian's packages, without root and without touching the system's own packages.

apt runs on a configuration, package lists and a cache of its own in a folder; it checks every package against the
archive's signature. The mirror is the one this machine uses already.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from edgelm.errors import DeviceError

# QEMU 10: with Debian 12's QEMU 7.2 importing onnxruntime crashes.
SUITE = "trixie"
PYTHON = "python3.13"
_QEMU = "usr/bin/qemu-aarch64"
_PACKAGES = (PYTHON, "libstdc++6")  # what they depend on comes by itself
# Names under which a sources list may speak of Debian; Ubuntu's, and those of other archives, are not among them.
_RELEASES = frozenset(
    {"bullseye", "bookworm", "trixie", "forky", "sid", "oldoldstable", "oldstable", "stable", "testing", "unstable"}
)
_KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
)
_CONFIG = """\
#clear APT::Architectures;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; "arm64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "-";
Dir::Etc::preferencesparts "-";
"""


def unpack(work: Path, mirror: str | None, qemu: Path, root: Path) -> list[Path]:
    """Download the packages into `work`; put QEMU's program at `qemu` and the aarch64 system under `root`.

    Returns:
        the package files.

    Raises:
        DeviceError: apt or dpkg is missing, no Debian mirror is known, or a package cannot be had.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DeviceError(f"{tool} is not here: emulation needs Debian or Ubuntu", hint="apt install apt dpkg")
    apt = _configure(work, mirror or find_mirror())
    _run([*apt, "update"], work, "the package lists of Debian cannot be read")
    _run([*apt, "download", "qemu-user:amd64"], work, "QEMU cannot be downloaded")
    wanted = [f"{name}:arm64" for name in _PACKAGES]
    _run([*apt, "install", "--yes", "--download-only", *wanted], work, "an aarch64 Python cannot be downloaded")
    emulator = next(work.glob("qemu-user_*.deb"))
    system = sorted((work / "cache/archives").glob("*_arm64.deb"))
    _extract(emulator, _QEMU, qemu)
    for package in system:
        _run(["dpkg-deb", "--extract", str(package), str(root)], work, f"{package.name} cannot be unpacked")
    for name in ("bin", "lib", "sbin"):  # where programs look for the loader; Debian's base-files would bring these
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    return [emulator, *system]


def find_mirror() -> str:
    """The Debian mirror in apt's sources.

    Raises:
        DeviceError: there is none.
    """
    command = ["apt-get", "indextargets", "--no-release-info", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        words = line.split(maxsplit=2)
        if len(words) == 3 and words[0] in _RELEASES and words[1] == "main":
            return words[2]
    raise DeviceError(
        "apt's sources name no Debian mirror",
        hint="name one: --mirror URL (Debian lists them on its site)",
    )


def _configure(work: Path, mirror: str) -> list[str]:
    """Write apt's files; the command that uses them."""
    if not re.fullmatch(r"[a-z+]+:/\S+", mirror):
        raise DeviceError(f"{mirror!r} is no address of a mirror", hint="it begins with http:// or https://")
    keyring = next(filter(lambda path: Path(path).is_file(), _KEYRINGS), None)
    if keyring is None:
        raise DeviceError("Debian's archive keys are not here", hint="apt install debian-archive-keyring")
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(f"deb [arch=amd64,arm64 signed-by={keyring}] {mirror} {SUITE} main\n")
    (work / "apt.conf").write_text(_CONFIG.format(folder=work))
    return ["apt-get", "--quiet=2", f"--config-file={work / 'apt.conf'}"]


def _run(command: Sequence[str], folder: Path, problem: str) -> None:
    """Run a tool in `folder`; what it says last becomes the error."""
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise DeviceError(
            f"{problem}: {said[-1].strip() if said else f'{command[0]} ends with {done.returncode}'}",
            hint="is the network there? `apt-get update` must work, and a Debian mirror carry the suite " + SUITE,
        )


def _extract(package: Path, member: str, path: Path) -> None:
    """One file of a package: the whole of qemu-user would be 465 MB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for entry in archive:
                source = archive.extractfile(entry) if entry.name.removeprefix("./") == member else None
                if source is not None:
                    with path.open("wb") as file:
                        shutil.copyfileobj(source, file)
                    path.chmod(0o755)
    if not path.is_file():
        raise DeviceError(f"{package.name} has no {member}", hint="give another mirror: --mirror URL")
