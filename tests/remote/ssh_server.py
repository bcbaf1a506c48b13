"""A real sshd on this machine, with homes of its own for the boards that it stands for: an account is a key."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


@dataclass
class Server:
    """An sshd: ``ssh:board`` reaches it by `config`, and so do its other boards, each with a home of its own."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    board: str = "board"
    address: str = "127.0.0.1"

    @property
    def config(self) -> Path:
        return self.folder / "config"

    @property
    def home(self) -> Path:
        return self.folder / f"home-{self.board}"

    @property
    def base(self) -> Path:
        return self.home / ".cache/edgelm/remote"

    def answers(self) -> bool:
        """Whether a connection to it can be made."""
        with socket.socket() as probe:
            probe.settimeout(2)
            return probe.connect_ex((self.address, self.port)) == 0

    def sessions(self) -> list[int]:
        """The processes that serve a connection each."""
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def left(self) -> list[str]:
        """Command lines of processes whose working environment is this board's home."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"HOME={self.home}\0".encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:80])
            except OSError:
                continue
        return found


@contextmanager
def serving(
    folder: Path, boards: Mapping[str, str], *, address: str = "127.0.0.1", within: Sequence[str] = ()
) -> Iterator[Server]:
    """An sshd until the block ends.

    Args:
        folder: for its files.
        boards: names of its boards, and lines of shell that each begins a session with.
        address: on which it listens.
        within: a command line that starts programs, in another network for instance.
    """
    if not os.access(SSHD, os.X_OK) or shutil.which("ssh") is None:
        pytest.skip("needs openssh-server and openssh-client")
    for name in ("host", *boards):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / f"{name}.key"], check=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    public = (folder / "host.key.pub").read_text().split()
    (folder / "known").write_text(f"[{address}]:{port} {public[0]} {public[1]}\n")
    for name, more in boards.items():
        (folder / f"home-{name}").mkdir()
        force = folder / f"force-{name}"
        force.write_text(
            f'#!/bin/sh\nexport HOME={folder}/home-{name}\nunset XDG_CACHE_HOME\n{more}\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        force.chmod(0o755)
        with (folder / "authorized").open("a") as keys:
            keys.write(f'command="{force}" {(folder / f"{name}.key.pub").read_text()}')
        with (folder / "config").open("a") as config:
            config.write(
                f"Host {name}\n  HostName {address}\n  Port {port}\n  User {getpass.getuser()}\n"
                f"  IdentityFile {folder}/{name}.key\n  IdentitiesOnly yes\n"
                f"  UserKnownHostsFile {folder}/known\n  GlobalKnownHostsFile /dev/null\n"
            )
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress {address}\nHostKey {folder}/host.key\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile {folder}/pid\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        f"MaxStartups 100\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    command = [*within, SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
    process = subprocess.Popen(command, stderr=(folder / "log").open("wb"))
    try:
        server = Server(folder, port, process, next(iter(boards)), address)
        until = time.monotonic() + 30
        while not server.answers():
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(10)
