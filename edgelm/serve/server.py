"""Listening, and ending well: uvicorn with bounds on what a connection may take."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import HANDLED_SIGNALS

from edgelm.errors import EdgeLMError, OptionError
from edgelm.serve.app import Application
from edgelm.serve.notify import notify, watchdog_seconds
from edgelm.serve.settings import Limits, Settings

_HEADER_BYTES = 32 << 10
_OVER = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\ncontent-length: 0\r\n\r\n"


def bounded(limits: Limits) -> type[H11Protocol]:
    """Uvicorn's protocol, which ends connections that take too long to ask or to listen, and those there are too many of."""

    class Bounded(H11Protocol):
        """A connection."""

        _reads: asyncio.TimerHandle | None = None
        _writes: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.write(_OVER)
                transport.close()
            self._reads = self.loop.call_later(limits.read_seconds, self._abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch_reading()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch_reading()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._writes = self._writes or self.loop.call_later(limits.write_seconds, self._abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            _stop(self._writes)
            self._writes = None

        def connection_lost(self, exc: Exception | None) -> None:
            _stop(self._reads)
            _stop(self._writes)
            super().connection_lost(exc)

        def _watch_reading(self) -> None:
            """A request that has begun must be there soon; between requests uvicorn's own time-out counts."""
            state = self.conn.their_state
            if state is h11.SEND_BODY or (state is h11.IDLE and self.conn.trailing_data[0]):
                self._reads = self._reads or self.loop.call_later(limits.read_seconds, self._abort)
            else:
                _stop(self._reads)
                self._reads = None

        def _abort(self) -> None:
            self.transport.abort()

    return Bounded


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class Server(uvicorn.Server):
    """uvicorn's server; a signal ends it with exit code 0, and running texts end within a time."""

    def __init__(self, application: Application, ready: Callable[[], None]) -> None:
        limits = application.backend.settings.limits
        config = uvicorn.Config(
            application.asgi,
            http=bounded(limits),
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=int(max(5, limits.read_seconds)),
            timeout_graceful_shutdown=int(limits.shutdown_seconds) + 5,
            h11_max_incomplete_event_size=_HEADER_BYTES,
        )
        super().__init__(config)
        self._application, self._ready = application, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load a model that is the only one, of several each when it is asked for; then listen."""
        pool = self._application.backend.pool
        if len(pool.models) == 1:
            async with pool.using(pool.find(None)):
                pass
        await super().startup(sockets)
        self._ready()
        self._alive = asyncio.create_task(_tell_alive())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests; texts that are still running after a while are cut short, and say so."""
        notify("STOPPING=1")
        self._alive.cancel()
        seconds = self._application.backend.settings.limits.shutdown_seconds
        timer = asyncio.get_running_loop().call_later(seconds, self._application.backend.generations.cancel_all)
        await super().shutdown(sockets)
        timer.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, but the signal is not raised again at the end."""
        try:
            before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        except ValueError:  # not in the main thread
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


async def _tell_alive() -> None:
    seconds = watchdog_seconds()
    while seconds is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(seconds)


def serve(application: Application, ready: Callable[[str], Any]) -> None:
    """Listen and serve until a signal comes.

    Args:
        application: from `build`.
        ready: called with the address once requests are served.

    Raises:
        OptionError: the address cannot be listened on.
        EdgeLMError: the model cannot be loaded.
    """
    settings = application.backend.settings
    listening, address = listen(settings)

    def told() -> None:
        ready(address)
        notify("READY=1")

    server = Server(application, told)
    try:
        server.run([listening])
    except SystemExit:  # uvicorn's, where the start failed; the reason was logged
        raise EdgeLMError("the server could not start", hint="the lines above say why") from None
    finally:
        listening.close()
        if settings.socket is not None:
            settings.socket.unlink(missing_ok=True)


def listen(settings: Settings) -> tuple[socket.socket, str]:
    """The socket to serve on, and what to call it.

    Raises:
        OptionError: it cannot be had.
    """
    if settings.socket is not None:
        return _unix(settings.socket), f"unix:{settings.socket}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise OptionError(f"--host {settings.host}: {getattr(error, 'strerror', None) or error}") from None
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
    except (OSError, OverflowError) as error:
        listening.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        where = f"{settings.host}:{settings.port}"
        raise OptionError(
            f"cannot listen on {where}: {getattr(error, 'strerror', None) or error}",
            hint="another program does, perhaps another edgelm serve; choose another --port" if taken else None,
        ) from None
    host, port = listening.getsockname()[:2]
    return listening, f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _unix(path: Path) -> socket.socket:
    """A Unix socket, for this user and group; one that a server left behind is replaced."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.lstat().st_mode) and not _answers(path):
            path.unlink()
        before = os.umask(0o117)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
    except OSError as error:
        listening.close()
        raise OptionError(f"--socket {path}: {error.strerror or error}") from None
    return listening


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True
