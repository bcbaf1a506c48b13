"""Files that are opened safely, files that are really on disk, and folders held by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, opened for reading; links are followed.

    A FIFO would be waited for, and a device read without an end: whatever a bundle, a checkpoint or an option names is
    opened here.

    Raises:
        OSError: it cannot be opened, is no regular file, or has no possible name.
    """
    try:
        # Without O_NONBLOCK a FIFO that takes the file's place right now would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a NUL or a lone surrogate in the name
        raise OSError(errno.EINVAL, "that is no possible file name") from None
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "it is a socket, not a regular file", str(path)) from None
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            what = "FIFO" if stat.S_ISFIFO(mode) else "device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "socket"
            raise OSError(errno.EINVAL, f"it is a {what}, not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """The content of a regular file.

    Args:
        path: of the file.
        limit: the most bytes it may have; None for any number.

    Raises:
        OSError: as `open_regular`, or it is larger.
    """
    with open_regular(path) as file:
        if limit is None:
            return file.read()
        data = file.read(limit + 1)
        if len(data) > limit:
            raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
        return data


def read_text(path: str | os.PathLike[str], limit: int | None = None) -> str:
    """The content of a regular UTF-8 file, its line ends as `\\n`; raises as `read_bytes`, or UnicodeDecodeError."""
    return read_bytes(path, limit).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the folder for this process; False where another one does, or where the file system has no locks."""
    import fcntl  # here, since it is for those who write only, and not on every system

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)


def to_disk(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
