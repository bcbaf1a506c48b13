"""What runs on the board: sent as text to its Python with each call, so that nothing need be installed there.

Reads a verb and JSON arguments, prints JSON. It is for any Python 3, so that it can say which one it is, and stands on the
standard library alone (3.8 and later). Nothing is left behind by a lost connection but what is needed to go on: parts of files.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from types import FrameType
from typing import Any, BinaryIO

PATIENCE = 30.0  # seconds without a sign of life from the host, after which it is taken to be gone
BLOCK = 1 << 18


def main(verb: str, arguments: dict[str, Any]) -> int:
    """Do what is asked for; the exit code."""
    try:
        return VERBS[verb](**arguments)
    except OSError as error:
        return fail(explained(error))


def explained(error: OSError) -> str:
    """What is wrong with which file; the command line says it so, too."""
    folder = isinstance(error, IsADirectoryError)
    name = (error.filename2 if folder else None) or error.filename
    where = f"{name}: " if name else ""
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return where + "a file is in the place of a folder"
    if folder:
        return where + "a folder is in the place of a file"
    return where + (error.strerror or str(error))


def probe(base: str) -> int:
    """What this board is."""
    base = os.path.expanduser(base)
    existing = base
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing) or "/"
    library, version = platform.libc_ver()
    return tell(
        arch=platform.machine(),
        python=list(sys.version_info[:2]),
        wide=sys.maxsize > 2**32,
        libc=library,
        libc_version=version,
        free=shutil.disk_usage(existing).free,
        base=base,
        executable=sys.executable,
    )


def have(paths: list[str]) -> int:
    """Bytes of each file that is whole, and of its part."""
    return tell(**{path: [size(path), size(path + ".part")] for path in paths})


def receive(path: str, length: int, sha256: str) -> int:
    """Append what comes to the file's part; once all of it is there and its hash is right, give it its name."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = path + ".part"
    with open(part, "ab") as file:
        if not lock(file):
            return fail("another transfer of this file goes on")
        left = length - file.tell()
        try:
            while left > 0 and (data := read(min(BLOCK, left))):
                file.write(data)
                left -= len(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            return fail(f"{path}: {error.strerror}")
    if left:
        return fail("the transfer ended early")
    if digest(part) != sha256:
        os.unlink(part)
        return fail(f"{path} came damaged: it is sent again next time")
    os.replace(part, path)
    return tell(done=True)


def send(path: str) -> int:
    """The file's bytes."""
    with open(path, "rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer, BLOCK)
    sys.stdout.flush()
    return 0


def unpack(archives: list[str], folder: str) -> int:
    """Unpack tar files, and the wheels in them, into a folder, whole or not at all; the archives are removed."""
    if not os.path.isdir(folder):
        making = f"{folder}.making-{os.getpid()}"
        try:
            os.makedirs(making)
            for archive in archives:
                with tarfile.open(archive) as tar:
                    for entry in tar:
                        if entry.name.endswith(".whl"):
                            with zipfile.ZipFile(tar.extractfile(entry)) as wheel:  # type: ignore[arg-type]
                                wheel.extractall(making)
                        else:
                            tar.extract(entry, making)
            os.rename(making, folder)
        except OSError as error:
            if not os.path.isdir(folder):
                return fail(explained(error))
        except (tarfile.TarError, zipfile.BadZipFile, KeyError) as error:
            return fail(f"{archive} is damaged: {error}")
        finally:
            shutil.rmtree(making, ignore_errors=True)
    for archive in archives:
        if os.path.exists(archive):
            os.unlink(archive)
    return tell(done=True)


def remove(paths: list[str]) -> int:
    """Remove files and folders."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
        if os.path.isfile(path):
            os.unlink(path)
    return tell(done=True)


def tidy(base: str, keep: list[str], age: float) -> int:
    """Remove what earlier calls that were cut off have left, and environments and parts that nobody used for `age` seconds.

    `keep` are about to be used; an environment of a program that runs is held by it, whatever its age.
    """
    for path in keep:
        if os.path.isdir(path):
            os.utime(path)
    for name in sorted(os.listdir(base)) if os.path.isdir(base) else ():
        path = os.path.join(base, name)
        making = name.rpartition(".making-")[2] if ".making-" in name else ""
        if making.isdigit():
            if not os.path.isdir("/proc/" + making):
                shutil.rmtree(path, ignore_errors=True)
        elif name.startswith("run-"):
            if not alive(os.path.join(path, "pid")):
                shutil.rmtree(path, ignore_errors=True)
        elif path not in keep and name.endswith((".part", ".tar", ".tar.gz")):
            if old(path, age):
                os.unlink(path)
        elif path not in keep and name.startswith(("site-", "edgelm-")):
            retire(path, age)
    return tell(done=True)


def retire(path: str, age: float) -> None:
    """Remove an environment, if it is old and no program holds it; half of one is never seen."""
    try:
        held = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if old(path, age):
            leaving = f"{path}.making-{os.getpid()}"
            os.rename(path, leaving)
            shutil.rmtree(leaving, ignore_errors=True)
    except OSError:
        pass  # in use, or gone
    finally:
        os.close(held)


def old(path: str, age: float) -> bool:
    """Whether a file or folder has not changed for so many seconds."""
    return time.time() - os.stat(path).st_mtime > age


def hold(paths: list[str]) -> None:
    """Keep folders from being retired for as long as this process lives."""
    for path in paths:
        with contextlib.suppress(OSError):
            fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)


def run(argv: list[str], environment: dict[str, str], folder: str) -> int:
    """Run a program until it ends, or until the host is gone: then it is ended, with all that it has started."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "pid"), "w") as file:
        file.write(str(os.getpid()))
    hold(environment.get("PYTHONPATH", "").split(":"))
    child = subprocess.Popen(
        argv,
        env=dict(os.environ, **environment),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )

    def stop(number: int, frame: FrameType | None) -> None:
        end(child, 143)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stop)
    heard = time.monotonic()
    while child.poll() is None:
        if select.select([0], [], [], 0.2)[0]:
            if not os.read(0, 64):
                end(child, 143)
            heard = time.monotonic()
        elif time.monotonic() - heard > PATIENCE:
            end(child, 143)
    code = child.returncode
    return code if code >= 0 else 128 - code


def end(child: subprocess.Popen[bytes], code: int) -> None:
    """End a process and its group, and this one."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        waiting = time.monotonic()
        while child.poll() is None and time.monotonic() - waiting < 2:
            time.sleep(0.02)
    os._exit(code)


def die_with_parent() -> None:
    """Let the kernel end the child where this process is ended in a way that it cannot notice."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (ImportError, OSError, AttributeError):
        pass


def read(count: int) -> bytes:
    """Bytes from the host; none where it is silent for too long, or gone."""
    if not select.select([0], [], [], PATIENCE)[0]:
        return b""
    return os.read(0, count)


def lock(file: BinaryIO) -> bool:
    """Whether the file is ours now; a transfer that was cut off may hold it for a moment."""
    for _ in range(100):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(0.1)
    return False


def alive(path: str) -> bool:
    """Whether the process whose number a file holds is there."""
    try:
        with open(path) as file:
            return os.path.isdir(f"/proc/{int(file.read())}")
    except (OSError, ValueError):
        return False


def size(path: str) -> int:
    """Bytes of a file, or -1."""
    try:
        return os.path.getsize(path)
    except OSError:
        return -1


def digest(path: str) -> str:
    """SHA-256 in hex."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            found.update(block)
    return found.hexdigest()


def tell(**facts: Any) -> int:
    """The answer."""
    print(json.dumps(facts), flush=True)
    return 0


def fail(why: str) -> int:
    """An error of one line."""
    print("agent: " + " ".join(why.split()), file=sys.stderr, flush=True)
    return 3


VERBS: dict[str, Callable[..., int]] = {
    "probe": probe, "have": have, "receive": receive, "send": send, "unpack": unpack, "remove": remove, "tidy": tidy,
    "run": run,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(sys.argv[1], json.loads(sys.argv[2])))
