"""The files that tasks read, on workers: by their path where the same bytes are there, else sent if they are small."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgelm.errors import ClusterError
from edgelm.files import temporary_folder

SMALL = 64 << 20  # bytes that are sent; what is larger has to be there
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Input:
    """A file or a folder.

    Attributes:
        path: where it is on the host, absolute.
        digest: of its names and bytes.
        size: in bytes.
    """

    path: str
    digest: str
    size: int


def describe(path: str) -> Input:
    """What a path of this machine holds; raises OSError where it cannot be read."""
    here = Path(path).absolute()
    return Input(str(here), _digest(here), sum(os.stat(file).st_size for _, file in _files(here)))


def pack(found: Input) -> bytes:
    """Its bytes, as a tar file."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, file in _files(Path(found.path)):
            tar.add(os.path.realpath(file), name)
    return data.getvalue()


def located(wanted: Input, packed: bytes | None) -> str:
    """Where an input is on this machine.

    Args:
        wanted: the input.
        packed: its bytes, where they were sent.

    Raises:
        ClusterError: neither its path nor its bytes are there, or other ones.
    """
    path = Path(wanted.path)
    if path.exists() and _known(wanted.path, _stamp(path)) == wanted.digest:
        return wanted.path
    if packed is not None:
        return str(_unpacked(wanted, packed))
    what = "holds other bytes" if path.exists() else "is not there"
    raise ClusterError(
        f"{wanted.path} {what} on a worker, and is too large to send ({wanted.size / 1e6:,.0f} MB)",
        hint="put it at the same path on every worker, or into a folder that they share",
    )


def _unpacked(wanted: Input, packed: bytes) -> Path:
    """The bytes in a folder for them, whole or not at all; what it is called stays, as bundles tell it."""
    folder = Path(tempfile.gettempdir()) / f"edgelm-inputs-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ClusterError(f"{folder} on a worker is another user's")
    there = folder / wanted.digest
    name = Path(wanted.path).name
    if not (there / name).exists():
        with temporary_folder(folder, "making-") as making:
            with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
                tar.extractall(making, filter="data")
            try:
                os.rename(making, there)
            except OSError:
                if not (there / name).exists():  # another process was faster
                    raise
    if _digest(there / name) != wanted.digest:
        shutil.rmtree(there, ignore_errors=True)
        raise ClusterError(f"{wanted.path} came damaged to a worker", hint="run it again")
    return there / name


def _files(path: Path) -> list[tuple[str, Path]]:
    """(The name in a tar file, the file) of a file, or of all files in a folder."""
    if path.is_file():
        return [(path.name, path)]
    found = sorted(file for file in path.rglob("*") if file.is_file())
    return [(f"{path.name}/{file.relative_to(path)}", file) for file in found]


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    for name, file in _files(path):
        with file.open("rb") as source:
            found.update(f"{name}\0{hashlib.file_digest(source, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes where a file does, as far as can be told without reading it."""
    stats = [(name, os.stat(file)) for name, file in _files(path)]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@functools.lru_cache(64)
def _known(path: str, stamp: tuple[tuple[str, int, int], ...]) -> str:
    return _digest(Path(path))
