"""Files opened safely, files written aside and put in their place at once, and what killed processes left, swept.

A temporary file or folder lies beside what it becomes, as ``.NAME.PURPOSE-xxxxxxxx``, or in TMPDIR, as
``.edgelm-scratch-xxxxxxxx``. Who made it holds its lock as long as it lives; locks go with their process, so that the next
run for the same NAME takes away what nobody holds. Where a file system knows no locks, what is older than a day goes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PARTIAL, OLD = "partial", "old"
# What is made beside a bundle while it is exported.
PURPOSES = (PARTIAL, OLD, "base", "calibrating", "ranges", "trying")
SCRATCH = ".edgelm-scratch-"
_RANDOM = r"[a-z0-9_]{8}"  # as `tempfile` makes names
_DAY = 86_400
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


_temporary: set[Path] = set()  # folders of this process


def path_argument(name: str, value: object) -> Path:
    """The path that a caller gives as the argument `name`.

    Raises:
        TypeError: it is none; it names the argument.
    """
    given = value.__fspath__() if isinstance(value, os.PathLike) else value
    if not isinstance(given, str):
        raise TypeError(f"{name} must be a path, a str or os.PathLike, not {type(value).__name__}")
    return Path(given)


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with the home folder for its ``~``; as it stands where there is no such user, which `Path.expanduser` raises."""
    return Path(os.path.expanduser(path))


def is_there(path: Path) -> bool:
    """Whether there is something of that name; not where the name is too long for any, which `Path.exists` raises."""
    return os.path.exists(path)


def expect_name(path: str | os.PathLike[str]) -> None:
    """OSError for what can be the name of no file: with a NUL, or with half of a surrogate pair."""
    try:
        impossible = b"\0" in os.fsencode(path)
    except UnicodeEncodeError:
        impossible = True
    if impossible:
        raise OSError(errno.EINVAL, "that is no possible file name")


def real_path(path: Path) -> Path:
    """A path without links in it; where they lead in a circle, as it stands: opening it tells that."""
    return Path(os.path.realpath(path))


def behind_link(path: Path) -> Path:
    """What is written where `path` is named: what a link leads to, so that the link stays one."""
    return real_path(path) if os.path.islink(path) else path


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, opened for reading; links are followed.

    A FIFO would be waited for, and a device read without an end: whatever a bundle, a checkpoint or an option names is
    opened here.

    Raises:
        OSError: it cannot be opened, is no regular file, or has no possible name.
    """
    expect_name(path)
    try:
        # Without O_NONBLOCK a FIFO that takes the file's place right now would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "it is a socket, not a regular file", str(path)) from None
        raise
    try:
        _expect_regular(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _expect_regular(path: str | os.PathLike[str], mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        what = "FIFO" if stat.S_ISFIFO(mode) else "device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "socket"
        raise OSError(errno.EINVAL, f"it is a {what}, not a regular file", str(path))


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
def locked(path: Path) -> Iterator[bool]:
    """Hold a file or folder for this process; False where another one does, or where the file system has no locks."""
    descriptor, held = _lock(path)
    try:
        yield bool(held)
    finally:
        os.close(descriptor)


def to_disk(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def umask() -> int:
    """The bits that new files lack."""
    # The only portable way to read it is to set it.
    value = os.umask(0)
    os.umask(value)
    return value


@contextlib.contextmanager
def aside(path: Path, purpose: str = PARTIAL) -> Iterator[Path]:
    """A hidden folder beside `path`, for its owner alone; whatever lies there when the context is left is gone.

    Raises:
        OSError: it cannot be made.
    """
    with temporary_folder(path.parent, f".{path.name}.{purpose}-") as folder:
        yield folder


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A hidden folder in TMPDIR, gone when the context is left; those of killed processes of this user go first."""
    with swept_folder(Path(tempfile.gettempdir()), SCRATCH) as folder:
        yield folder


@contextlib.contextmanager
def swept_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A `temporary_folder`; those that killed processes of this user left in `parent` under this prefix go first."""
    sweep_matching(parent, re.escape(prefix) + _RANDOM)
    with temporary_folder(parent, prefix) as folder:
        yield folder


@contextlib.contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `parent` that is held, and gone when the context is left."""
    folder, descriptor = _make_folder(parent, prefix)
    _temporary.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _temporary.discard(folder)
        os.close(descriptor)


def remove_temporary() -> None:
    """Remove the temporary folders of this process, which is about to end without leaving their contexts."""
    for folder in tuple(_temporary):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once it is written and on disk, with the permissions `mode`.

    Its ``name`` is that of the hidden file beside `path` that it is until then; it ends as `path` does. Where `path` is a
    link, it takes the place of what that leads to.

    Raises:
        OSError: it cannot be written, or something other than a regular file is there, such as /dev/null.
    """
    expect_name(path)
    path = behind_link(path)
    with contextlib.suppress(FileNotFoundError):
        _expect_regular(path, os.stat(path).st_mode)  # links in a circle end here
    sweep(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.{PARTIAL}-", suffix=path.suffix, dir=path.parent)
    try:
        with open(name, "wb", opener=lambda *_: descriptor) as file:
            _flock(descriptor)
            yield file
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
            os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    to_disk(path.parent)


def put(folder: Path, output: Path, *, overwrite: bool) -> None:
    """Make `folder` be `output`, at once; with `overwrite` a folder there is exchanged with it, and then is `folder`.

    Where the file system cannot exchange, the old one steps aside first; should the process be killed between the two
    steps, `recover` puts it back.

    Raises:
        OSError: without `overwrite`, `output` is there; or it cannot be done.
    """
    if not overwrite or not os.path.lexists(output):
        folder.rename(output)
        return
    if _exchange(folder, output):
        return
    old = output.parent / f".{output.name}.{OLD}-{secrets.token_hex(4)}"
    with locked(output):
        output.rename(old)
        try:
            folder.rename(output)
        except OSError:
            old.rename(output)
            raise
        shutil.rmtree(old, ignore_errors=True)


def recover(path: Path) -> bool:
    """Put back what stepped aside for a new `path` that never came; whether there is something now."""
    if os.path.lexists(path):
        return False
    with contextlib.suppress(OSError):
        found = _matching(path.parent, _names_beside(path, (OLD,)))
        for old in sorted(found, key=lambda entry: entry.stat().st_mtime, reverse=True):
            with locked(old) as free:
                if free and not os.path.lexists(path):
                    old.rename(path)
                    return True
    return False


def sweep(path: Path) -> None:
    """Take away what processes that were killed left beside `path`, and put back what they took from it."""
    recover(path)
    purposes = PURPOSES if os.path.lexists(path) else tuple(p for p in PURPOSES if p != OLD)
    sweep_matching(path.parent, _names_beside(path, purposes))


def sweep_matching(parent: Path, pattern: str) -> list[Path]:
    """Remove what in `parent` has a name of this `pattern`, is this user's, and is held by nobody.

    Returns:
        what is held.
    """
    held = []
    for path in _matching(parent, pattern):
        with contextlib.suppress(OSError):
            descriptor, free = _lock(path)
            try:
                found = os.fstat(descriptor)
                unknown = free is None and time.time() - found.st_mtime > _DAY
                if (free or unknown) and found.st_uid == os.getuid():
                    _remove(path, found)
                else:
                    held.append(path)
            finally:
                os.close(descriptor)
    return held


def _names_beside(path: Path, purposes: tuple[str, ...]) -> str:
    return rf"\.{re.escape(path.name)}\.(?:{'|'.join(purposes)})-{_RANDOM}(?:{re.escape(path.suffix)})?"


def _matching(parent: Path, pattern: str) -> list[Path]:
    compiled = re.compile(pattern)
    try:
        with os.scandir(parent) as entries:
            return [Path(entry.path) for entry in entries if compiled.fullmatch(entry.name)]
    except OSError:
        return []


def _remove(path: Path, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def _make_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder, and the descriptor that holds it."""
    expect_name(parent / prefix)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            descriptor, held = _lock(folder)
        except FileNotFoundError:  # swept in the moment before it was held
            continue
        if held is not False and folder.exists():
            return folder, descriptor
        os.close(descriptor)  # another process is about to sweep it


def _lock(path: Path) -> tuple[int, bool | None]:
    """A descriptor, and whether it holds the lock of `path`; None where the file system has no locks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    return descriptor, _flock(descriptor)


def _flock(descriptor: int) -> bool | None:
    import fcntl  # here, since it is for those who write only, and not on every system

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step (Linux 3.15, glibc 2.28); False where the system or the file system cannot."""
    import ctypes  # here: it takes milliseconds, and is for overwriting alone

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))
