"""Answers that come piece by piece: server-sent events, and lines of JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from edgelm.serve.errors import ApiError, told

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"
PING = b": waiting\n\n"  # a comment, which clients pass over
_QUIET_SECONDS = 10.0  # after which a client is told that its request is alive


class Json(JSONResponse):
    """A JSON answer; text is written as it is."""

    def render(self, content: Any) -> bytes:
        """The bytes of it."""
        return dumped(content)


class Stream(Response):
    """Sends pieces as they come.

    Args:
        media_type: of the answer.
        pieces: what is sent.
        failed: makes the last piece where an error ends the answer.
        ping: what is sent when nothing comes for a while; None for nothing.
    """

    def __init__(
        self,
        media_type: str,
        pieces: AsyncGenerator[bytes, None],
        failed: Callable[[ApiError], bytes],
        ping: bytes | None = None,
    ) -> None:
        super().__init__(None, media_type=media_type, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._pieces, self._failed, self._ping = pieces, failed, ping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all."""
        async with contextlib.aclosing(self._pieces):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                while (piece := await self._next(send)) is not None:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except OSError:
                raise
            except Exception as error:
                await send({"type": "http.response.body", "body": self._failed(told(error)), "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _next(self, send: Callable[[dict[str, Any]], Awaitable[None]]) -> bytes | None:
        """The next piece, None behind the last one."""
        step = asyncio.ensure_future(_step(self._pieces))
        try:
            while not (await asyncio.wait({step}, timeout=None if self._ping is None else _QUIET_SECONDS))[0]:
                await send({"type": "http.response.body", "body": self._ping, "more_body": True})
            return step.result()
        finally:
            if not step.done():
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)


async def _step(pieces: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(pieces, None)


def dumped(content: Any) -> bytes:
    """JSON in UTF-8; half a surrogate pair, which a client may have sent, becomes a question mark."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def event(content: Any, name: str | None = None) -> bytes:
    """A server-sent event."""
    head = b"" if name is None else f"event: {name}\n".encode()
    return head + b"data: " + dumped(content) + b"\n\n"


def line(content: Any) -> bytes:
    """A line of JSON."""
    return dumped(content) + b"\n"
