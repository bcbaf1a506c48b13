"""What a server may be told, and its limits."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from edgelm.errors import OptionError
from edgelm.files import read_text, real_path

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SHORTEST_KEY = 8  # characters; what is shorter is guessed
_LONGEST_KEYS = 1 << 20  # bytes of a file of keys


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client may cost the others.

    Attributes:
        body_bytes: of a request; above it 413.
        queue: requests that wait for a place in a model's batch; above it 429.
        seconds: from a request's arrival to the end of its text, the wait included.
        read_seconds: in which a request must have arrived whole.
        write_seconds: for which a client may leave what was sent to it unread.
        connections: open at once; above it 503.
        choices: texts of one request (`n`, and prompts in a list).
        shutdown_seconds: in which running texts may end after the server was told to.
    """

    body_bytes: int = 8 << 20
    queue: int = 64
    seconds: float = 600.0
    read_seconds: float = 30.0
    write_seconds: float = 60.0
    connections: int = 256
    choices: int = 16
    shutdown_seconds: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A server.

    Attributes:
        bundles: folders.
        aliases: names of the first bundles, in order; others are called as their folder.
        host, port: where it listens, unless there is
        socket: the path of a Unix socket.
        keys: any of which a client must show; none for no authentication.
        insecure: whether it may listen beyond this machine without a key.
        origins: whose pages may call it from a browser.
        hosts: names, beside its own, by which clients may call it.
        parallel: texts of a model computed at once.
        max_memory_mb: what the process may take, in 10^6 bytes; None for what the machine has.
        idle_seconds: after which a model nobody asks for is unloaded; None for never.
        threads, prefill_threads: of a model; None for what suits this machine.
        weight_cache: whether prepacked weights are cached.
        profile: whether a model runs as it was tuned for this machine.
        parse_special: whether names of special tokens in messages are those tokens, and not text.
        answer_grammar: whether answers are held to the grammar that a model names for them.
        prompt_cache: the folder where beginnings of prompts survive a restart; None for none.
        temperature: gives the machine's temperature in °C, or None.
        limits: see `Limits`.
    """

    bundles: tuple[Path, ...]
    aliases: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8080
    socket: Path | None = None
    keys: tuple[str, ...] = ()
    insecure: bool = False
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    parallel: int = 4
    max_memory_mb: float | None = None
    idle_seconds: float | None = None
    threads: int | None = None
    prefill_threads: int | None = None
    weight_cache: bool = True
    profile: bool = True
    parse_special: bool = False
    answer_grammar: bool = True
    prompt_cache: Path | None = None
    temperature: Callable[[], float | None] = lambda: None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.bundles:
            raise OptionError("serve needs a bundle", hint="edgelm serve BUNDLE")
        if len(self.aliases) > len(self.bundles):
            raise OptionError(f"{len(self.aliases)} aliases for {len(self.bundles)} bundles")
        if self.socket is None and not self.keys and not self.insecure:
            expect_loopback(self.host)
        kept = self.prompt_cache
        if kept is not None and os.path.lexists(kept) and not kept.is_dir():
            raise OptionError(f"prompt cache {kept} is no folder", hint="--prompt-cache DIR, or --no-prompt-cache")
        for key in self.keys:
            if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
                raise OptionError(
                    f"an API key must have {_SHORTEST_KEY} or more printable ASCII characters and no blank",
                    hint="make one with: openssl rand -hex 24",
                )
        for origin in self.origins:
            if origin != "*" and (not origin.startswith(("http://", "https://", "app://")) or origin.endswith("/")):
                raise OptionError(f"--cors {origin!r} is no origin", hint="such as https://chat.example.org")

    @property
    def names(self) -> tuple[str, ...] | None:
        """Host names by which it may be called, in lower case; None for any, where no browser can reach it."""
        if self.socket is not None:
            return None
        own: tuple[str, ...] = (self.host,)
        if is_wildcard(self.host):  # whoever comes by the network calls this machine by its name
            name = socket.gethostname()
            own = (name, f"{name.split('.')[0]}.local")
        return tuple(name.lower() for name in (*LOOPBACK, *own, *self.hosts))

    def admits(self, host: str) -> bool:
        """Whether a ``Host`` header is one of its own: a page of another name must not reach it by pointing that name here."""
        names = self.names
        if names is None:
            return True
        name = _without_port(host.strip().lower())
        # An address cannot be pointed elsewhere; it is admitted where the network may come in at all.
        return name in names or (not is_loopback(self.host) and _is_address(name))


def expect_loopback(host: str) -> None:
    """For a server that anybody who reaches it may use.

    Raises:
        OptionError: `host` is reached from elsewhere.
    """
    if not is_loopback(host):
        raise OptionError(
            f"--host {host} opens the server to others, and it has no key",
            hint="--api-key-file FILE, or --insecure where everyone who can reach it may use it",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host.lower() == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def is_wildcard(host: str) -> bool:
    """Whether it stands for all addresses of this machine."""
    return _is_address(host) and ipaddress.ip_address(host).is_unspecified


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file, one a line; lines that begin with # are passed over.

    Raises:
        OptionError: it cannot be read, holds none, or others of this machine may read it.
    """
    try:
        text = read_text(path, _LONGEST_KEYS)
        mode = path.stat().st_mode
    except UnicodeDecodeError:
        raise OptionError(f"{path} is not valid UTF-8") from None
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror or error}") from None
    if stat.S_IMODE(mode) & 0o077 and not _is_credential(path):
        raise OptionError(f"others may read the keys in {path}", hint=f"chmod 600 {path}")
    lines: Iterable[str] = (line.strip() for line in text.splitlines())
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise OptionError(f"{path} holds no key", hint="one a line; make one with: openssl rand -hex 24")
    return keys


def _is_credential(path: Path) -> bool:
    """Whether systemd gave the file to this service alone, whose access list shows as the group's bits."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(folder) and real_path(path).is_relative_to(real_path(Path(str(folder))))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and ":" not in name else host
