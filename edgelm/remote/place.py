"""How a board is reached: ``ssh:USER@HOST``, ``adb:SERIAL``, ``emulate:TARGET``; each starts a program there.

``emulate:TARGET#NAME`` is one of several emulated boards of a kind, with a home of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgelm.emulate import Board, prepare
from edgelm.errors import OptionError, RemoteError
from edgelm.target.target import load_target

_CONNECT = 15  # seconds for a connection
_INTERPRETERS = ("python3", "python3.13", "python3.12", "python3.11")
_LOST = (
    "Connection reset", "Broken pipe", "closed by remote", "Connection closed", "Timeout, server", "Connection to",
    "client_loop", "mux_client", "Control socket", "kex_exchange_identification", "Connection timed out",
)  # fmt: skip


class Place(Protocol):
    """A board that programs can be started on."""

    @property
    def name(self) -> str:
        """As the user gave it."""

    @property
    def base(self) -> str:
        """The folder there for all that is edgelm's."""

    @property
    def launcher(self) -> tuple[str, ...]:
        """What stands before a program that the board's Python starts; nothing where it can start one itself."""

    def start(self, args: Sequence[str], **pipes: Any) -> subprocess.Popen[bytes]:
        """Start the board's Python with arguments; `pipes` as subprocess takes them."""

    def explain(self, code: int, said: str) -> RemoteError:
        """What the end of a program means that could not be started, or was cut off."""


def parse(name: str) -> tuple[str, str]:
    """What --on was given: the kind of place, and which.

    Raises:
        OptionError: it names none.
    """
    kind, _, rest = name.partition(":")
    if kind not in ("ssh", "adb", "emulate") or not rest or rest.startswith("-") or re.search(r"\s", rest):
        raise OptionError(f"--on {name!r} names no board", hint="--on ssh:USER@HOST, adb:SERIAL or emulate:TARGET")
    return kind, rest


@contextlib.contextmanager
def open_place(name: str) -> Iterator[Place]:
    """The board that --on names, for as long as the block runs.

    Raises:
        OptionError: it is none.
        RemoteError: what is needed to reach it is not installed.
    """
    kind, rest = parse(name)
    if kind == "emulate":
        yield _Emulated(name, Board.of(prepare(), load_target(rest.partition("#")[0])))
        return
    program = shutil.which(kind)
    if program is None:
        raise RemoteError(
            f"{kind} is not installed here", hint=f"apt install {'openssh-client' if kind == 'ssh' else 'adb'}"
        )
    if kind == "adb":
        yield _Adb(name, program, rest)
        return
    with tempfile.TemporaryDirectory(prefix="edgelm-ssh-") as folder:
        place = _Ssh(name, program, rest, Path(folder))
        try:
            place.connect()
            yield place
        finally:
            place.close()


@dataclass(frozen=True)
class _Ssh:
    """Plain OpenSSH with the user's configuration, keys and known hosts; one connection for all calls."""

    name: str
    program: str
    host: str
    folder: Path
    base: str = "~/.cache/edgelm/remote"
    launcher: tuple[str, ...] = ()

    def _options(self) -> list[str]:
        settings = {
            "BatchMode": "yes",  # a password is asked for by nobody: keys, or an agent
            "ConnectTimeout": _CONNECT,
            "ControlPath": self.folder / "c",
            "ServerAliveInterval": 5,
            "ServerAliveCountMax": 3,
        }
        # EDGELM_SSH_CONFIG stands in for ~/.ssh/config
        own = os.environ.get("EDGELM_SSH_CONFIG")
        return [*(["-F", own] if own else []), *(f"-o{name}={value}" for name, value in settings.items())]

    def start(self, args: Sequence[str], **pipes: Any) -> subprocess.Popen[bytes]:
        """See `Place`."""
        tries = " ".join(f"command -v {python} ||" for python in reversed(_INTERPRETERS[1:]))
        line = f'p=$({tries} command -v python3) || exit 127; exec "$p" {shlex.join(args)}'
        command = [self.program, *self._options(), "-T", "--", self.host, line]
        return subprocess.Popen(command, start_new_session=True, **pipes)

    def explain(self, code: int, said: str) -> RemoteError:
        """See `Place`."""
        last = said.strip().splitlines()[-1] if said.strip() else f"ssh ends with {code}"
        if code == 127:
            return RemoteError(f"{self.host} has no Python 3", hint="apt install python3 on the board")
        if "Host key verification failed" in said or "IDENTIFICATION HAS CHANGED" in said:
            changed = "IDENTIFICATION HAS CHANGED" in said
            hint = (
                "if the board was set up anew: ssh-keygen -R HOST"
                if changed
                else f"once, to see and accept it: ssh {self.host}"
            )
            return RemoteError(f"the host key of {self.host} {'has changed' if changed else 'is not known'}", hint=hint)
        if "Permission denied" in said:
            return RemoteError(f"{self.host} takes none of your keys", hint=f"ssh-copy-id {self.host}, or ssh-add")
        if "Could not resolve" in said or "Name or service" in said:
            return RemoteError(f"{self.host} is not known on this network", hint=f"does it answer? ssh {self.host}")
        if any(text in said for text in ("Connection refused", "No route", "timed out", "Network is unreachable")):
            return RemoteError(
                f"{self.host} does not answer: {last}", hint="is it on, and in the network? then run this again"
            )
        if code == 255 or any(text in said for text in _LOST):
            return RemoteError(f"the connection to {self.host} was lost", hint="run it again: it goes on where it was")
        return RemoteError(f"{self.host}: {last}")

    def connect(self) -> None:
        """Open the connection that all calls go through.

        A process of its own, as one that is left behind by a call would hold that call's pipes open.

        Raises:
            RemoteError: there is none to be had.
        """
        said = self.folder / "said"
        command = [self.program, *self._options(), "-oControlMaster=yes", "-oControlPersist=60", "-fN", "--", self.host]
        with said.open("wb") as file:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False, start_new_session=True
            )
        if done.returncode:
            raise self.explain(done.returncode, said.read_text(errors="replace"))

    def close(self) -> None:
        """End the connection."""
        if (self.folder / "c").exists():
            command = [self.program, *self._options(), "-O", "exit", "--", self.host]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)


@dataclass(frozen=True)
class _Emulated:
    """A board on this machine, whose home is a folder of the cache."""

    name: str
    board: Board

    @property
    def base(self) -> str:
        """See `Place`."""
        return str(self.board.sandbox.folder.parent / f"home-{self.name.partition(':')[2].replace('/', '_')}")

    @property
    def launcher(self) -> tuple[str, ...]:
        """QEMU, and its options: this machine cannot start the board's programs by themselves."""
        command = self.board.command([])
        return tuple(command[: command.index(str(self.board.sandbox.python))])

    def start(self, args: Sequence[str], **pipes: Any) -> subprocess.Popen[bytes]:
        """See `Place`."""
        kept = self.board.environment()
        kept.pop("PYTHONPATH", None)
        return subprocess.Popen(self.board.command(args), env=kept, start_new_session=True, **pipes)

    def explain(self, code: int, said: str) -> RemoteError:
        """See `Place`."""
        last = said.strip().splitlines()[-1] if said.strip() else f"ends with {code}"
        return RemoteError(f"{self.name}: {last}")


@dataclass(frozen=True)
class _Adb:
    """A phone or another Android device by the adb program: a Python under /data/local/tmp, or Termux's."""

    name: str
    program: str
    serial: str
    base: str = "/data/local/tmp/edgelm"
    launcher: tuple[str, ...] = ()

    def start(self, args: Sequence[str], **pipes: Any) -> subprocess.Popen[bytes]:
        """See `Place`."""
        known = (f"{self.base}/python/bin/python3", "/data/data/com.termux/files/usr/bin/python3")
        tries = " || ".join([*(f"command -v {python}" for python in known), "command -v python3"])
        line = f'p=$({tries}) || exit 127; exec "$p" {shlex.join(args)}'
        command = [self.program, "-s", self.serial, "shell", "-T", line]
        return subprocess.Popen(command, start_new_session=True, **pipes)

    def explain(self, code: int, said: str) -> RemoteError:
        """See `Place`."""
        last = said.strip().splitlines()[-1] if said.strip() else f"adb ends with {code}"
        if code == 127:
            hint = f"put an aarch64 Python of a glibc system into {self.base}/python, or use Termux with sshd and --on ssh:"
            return RemoteError(f"{self.serial} has no Python that adb may run", hint=hint)
        if "unauthorized" in said:
            return RemoteError(
                f"{self.serial} does not trust this machine yet", hint="unlock it and allow USB debugging"
            )
        if "not found" in said and "device" in said:
            return RemoteError(f"no device {self.serial}", hint="adb devices lists those that are there")
        if "offline" in said or "closed" in said or "no devices" in said:
            return RemoteError(
                f"the connection to {self.serial} was lost", hint="run it again: it goes on where it was"
            )
        return RemoteError(f"{self.serial}: {last}")
