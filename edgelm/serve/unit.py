"""A systemd unit for a server, with no more rights than it needs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

_UNIT = """\
# edgelm serve. Install:
#   edgelm serve … --install-unit | sudo tee /etc/systemd/system/edgelm.service
#   sudo systemctl daemon-reload && sudo systemctl enable --now edgelm
[Unit]
Description=edgelm: small language models behind OpenAI's, Ollama's and Anthropic's interfaces
After=network.target

[Service]
Type=notify
ExecStart={command}
{credential}DynamicUser=yes
StateDirectory=edgelm
CacheDirectory=edgelm
Environment=HOME=/var/lib/edgelm XDG_CACHE_HOME=/var/cache PYTHONUNBUFFERED=1
{runtime}Restart=on-failure
RestartSec=5
WatchdogSec=120
TimeoutStartSec=600
TimeoutStopSec={stop}
KillSignal=SIGTERM
OOMPolicy=stop
{memory}
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictAddressFamilies={families}
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def unit(
    program: Sequence[str],
    options: Sequence[str],
    bundles: Sequence[Path],
    *,
    key_file: Path | None = None,
    socket: Path | None = None,
    max_memory_mb: float | None = None,
    shutdown_seconds: float = 30.0,
) -> str:
    """The unit's text.

    Args:
        program: what is run, such as the path of ``edgelm`` and ``serve``.
        options: of the command, without those below.
        bundles: folders.
        key_file: the file of keys, which systemd hands to the service: its owner may be root.
        socket: of a Unix socket, or None.
        max_memory_mb: what it may take, in 10^6 bytes, or None.
        shutdown_seconds: in which running texts may end.
    """
    paths = [path.absolute() for path in bundles]
    words = [*program, *map(str, paths), *options]
    if max_memory_mb is not None:
        words += ["--max-memory", f"{max_memory_mb:g}"]
    if socket is not None:
        words += ["--socket", str(socket.absolute())]
    credential = ""
    if key_file is not None:
        credential = f"LoadCredential=keys:{_escaped(str(key_file.absolute()))}\n"
    command = " ".join(_quoted(word) for word in words)
    command += " --api-key-file ${CREDENTIALS_DIRECTORY}/keys" if key_file is not None else ""
    programs = [Path(word) for word in program if word.startswith("/")]
    at_home = any(path.is_relative_to(home) for path in (*paths, *programs) for home in map(Path, ("/home", "/root")))
    return _UNIT.format(
        command=command,
        credential=credential,
        runtime="RuntimeDirectory=edgelm\n" if socket is not None else "",
        stop=int(shutdown_seconds) + 15,
        memory="" if max_memory_mb is None else f"MemoryMax={int(max_memory_mb * 1.25)}M\nMemorySwapMax=0\n",
        home="read-only" if at_home else "yes",
        families="AF_UNIX" if socket is not None else "AF_UNIX AF_INET AF_INET6",
    )


def _quoted(word: str) -> str:
    """A word for ``ExecStart=``, where % and $ mean something."""
    return shlex.quote(word).replace("'\"'\"'", "\\'").replace("%", "%%").replace("$", "$$")


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
