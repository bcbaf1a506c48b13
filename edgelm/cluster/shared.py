"""A folder that the processes of a machine share while they do tasks of one kind; gone when the last of them releases it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgelm.errors import ClusterError

_PREFIX = "edgelm-shared-"
_held = dict[str, int]()  # descriptors by key, which the kernel closes where a process is killed
_lock = threading.Lock()


def shared_folder(key: str) -> Path:
    """The folder of a key, made if it is not there; those that nobody holds any more go first."""
    with _lock:
        folder = _folder(key)
        if key not in _held:
            _sweep()
            _held[key] = _take(folder)
        return folder


def release(key: str) -> None:
    """Release a folder."""
    with _lock:
        if (descriptor := _held.pop(key, None)) is not None:
            os.close(descriptor)
        _remove_unheld(_folder(key))


@contextmanager
def alone(folder: Path, name: str) -> Iterator[None]:
    """Hold a name in a folder; waits for other processes. One that waited finds what the first has made."""
    path = folder / f".{name}.lock"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _folder(key: str) -> Path:
    return Path(tempfile.gettempdir()) / f"{_PREFIX}{os.getuid()}-{key}"


def _take(folder: Path) -> int:
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise ClusterError(f"{folder} is another user's")
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if folder.is_dir() and os.fstat(descriptor).st_ino == folder.stat().st_ino:
            return descriptor
        os.close(descriptor)  # it was removed in the moment before it was held


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}{os.getuid()}-*"):
        _remove_unheld(folder)


def _remove_unheld(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
