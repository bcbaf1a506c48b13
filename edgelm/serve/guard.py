"""Who may call, from where, and with how much: in front of every route."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgelm.serve.errors import ApiError, Style, style_of, told
from edgelm.serve.settings import Settings

_ALLOWED = (
    "authorization, content-type, x-api-key, anthropic-version, anthropic-beta, openai-organization, openai-project"
)
_SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_DRAIN_SECONDS, _DRAIN_BYTES = (
    5.0,
    512 << 20,
)  # of a body too long: a client that is still sending does not read an answer


class Guard:
    """Checks the ``Host``, the ``Origin``, the key and the size of a request, and turns errors into answers.

    Args:
        app: what it guards.
        settings: of the server.
        public: whether a path is served without a key.
        count: called with (path, status) of every answer.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, public: Callable[[str], bool], count: Callable[[str, int], None]
    ) -> None:
        self._app, self._settings, self._public, self._count = app, settings, public, count
        self._keys = [sha256(key.encode()).digest() for key in settings.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send, self._cors(Headers(scope=scope)), self._count)
        body = _BoundedBody(receive, self._settings.limits.body_bytes)
        try:
            if self._checked(scope):
                await answer.empty(204)
                return
            body.expect(Headers(scope=scope))
            await self._app(scope, body.receive, answer.send)
        except (ClientDisconnect, OSError):
            return  # nobody is there to be told
        except Exception as error:
            problem = told(error)
            if problem.status == 413:
                await body.drain()
            await answer.fail(problem)

    def _checked(self, scope: Scope) -> bool:
        """Whether the request is a browser's preflight, which is answered here.

        Raises:
            ApiError: it may not be served.
        """
        headers = Headers(scope=scope)
        if not self._settings.admits(headers.get("host", "")):
            raise ApiError(
                403, "this server has another name; to serve this one, start it with --allow-host", code="host"
            )
        origin = headers.get("origin")
        if origin is not None and not self._knows(origin, headers.get("host", "")):
            raise ApiError(403, "pages of this origin may not call; to allow it, start with --cors", code="origin")
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            return True
        if self._keys and not self._public(scope["path"]) and not self._has_key(headers):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")
        return False

    def _has_key(self, headers: Headers) -> bool:
        """Whether one of the keys is shown; takes as long whichever it is, and for a wrong one."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        shown = [bearer.strip()] if scheme.lower() == "bearer" else []
        shown.append(headers.get("x-api-key", ""))
        digests = [sha256(key.encode("latin-1", "replace")).digest() for key in shown]
        matches = [hmac.compare_digest(mine, theirs) for mine in self._keys for theirs in digests]
        return any(matches)

    def _knows(self, origin: str, host: str) -> bool:
        """Whether an origin is this server's own page, or a named one."""
        own = origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
        return own or "*" in self._settings.origins or origin in self._settings.origins

    def _cors(self, headers: Headers) -> dict[str, str]:
        """Headers that let a named origin's page read the answer."""
        origin = headers.get("origin")
        if origin is None or not {"*", origin} & set(self._settings.origins):
            return {}
        return {
            "access-control-allow-origin": origin,
            "access-control-allow-methods": "GET, POST, HEAD, OPTIONS",
            "access-control-allow-headers": _ALLOWED,
            "access-control-max-age": "600",
            "cross-origin-resource-policy": "cross-origin",
            "vary": "Origin",
        }


class _Answer:
    """What goes back, with the headers that all answers have."""

    def __init__(self, scope: Scope, send: Send, headers: Mapping[str, str], count: Callable[[str, int], None]) -> None:
        self._path, self._send, self._headers, self._count = scope["path"], send, {**_SAFE, **headers}, count
        self._style: Style = style_of(self._path)
        self._head = scope["method"] == "HEAD"
        self._begun = False

    async def send(self, message: Message) -> None:
        """A message of the application's."""
        if message["type"] == "http.response.start":
            self._begun = True
            self._count(self._path, message["status"])
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers.setdefault(name, value)
        await self._send(message)

    async def fail(self, problem: ApiError) -> None:
        """Tell of an error, where nothing was sent yet; otherwise the connection ends in the middle of the answer."""
        if self._begun:
            return
        await self._whole(problem.status, json.dumps(problem.body(self._style)).encode(), problem.headers)

    async def empty(self, status: int) -> None:
        """An answer without content."""
        await self._whole(status, b"", {})

    async def _whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        listed = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        if status == 204:
            listed = {}
        raw = [(name.encode(), value.encode()) for name, value in listed.items()]
        with contextlib.suppress(OSError):
            await self.send({"type": "http.response.start", "status": status, "headers": raw})
            await self.send({"type": "http.response.body", "body": b"" if self._head else body})


class _BoundedBody:
    """What comes in, up to a number of bytes."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit, self._read = receive, limit, 0
        self._more, self._waits = True, False

    def expect(self, headers: Headers) -> None:
        """Refuse a body by the length that it announces."""
        self._waits = headers.get("expect", "").lower() == "100-continue"
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._limit:
            raise self._too_long()

    async def receive(self) -> Message:
        """A message for the application."""
        message = await self._next()
        if self._read > self._limit:
            raise self._too_long()
        return message

    async def drain(self) -> None:
        """Take in the rest, within bounds, and keep none of it."""
        end = time.monotonic() + _DRAIN_SECONDS
        with contextlib.suppress(asyncio.TimeoutError):
            while self._more and not self._waits and self._read < _DRAIN_BYTES and time.monotonic() < end:
                await asyncio.wait_for(self._next(), _DRAIN_SECONDS)

    async def _next(self) -> Message:
        message: dict[str, Any] = dict(await self._receive())
        self._read += len(message.get("body", b""))
        self._more = bool(message.get("more_body", False))
        return message

    def _too_long(self) -> ApiError:
        return ApiError(413, f"the request is longer than {self._limit:,} bytes", code="request_too_large")
