"""What a client is told where its request cannot be served: a status and a line, in the form of the interface it speaks."""

from __future__ import annotations

import logging
import os
from typing import Any, Literal

from edgelm.errors import (
    BundleError,
    BusyError,
    DependencyError,
    DeviceError,
    EdgeLMError,
    OptionError,
    PromptError,
    TaskError,
)

LOG = logging.getLogger("edgelm.serve")

Style = Literal["openai", "ollama", "anthropic"]

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
_TYPES |= {408: "timeout_error", 413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error"}
_RETRY = {429: 1, 503: 5}  # status -> seconds


class ApiError(Exception):
    """A request that cannot be served.

    Attributes:
        status: of HTTP.
        param: the key of the request that is wrong, or None.
        code: a word for programs, or None.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        found = {"retry-after": str(_RETRY[self.status])} if self.status in _RETRY else {}
        more = {
            401: {"www-authenticate": "Bearer"},
            413: {"connection": "close"},
        }  # the rest of a long body is not read
        return found | more.get(self.status, {})

    def body(self, style: Style) -> dict[str, Any]:
        """As the interface tells of errors."""
        kind = _TYPES.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")
        if style == "ollama":
            return {"error": str(self)}
        if style == "anthropic":
            return {"type": "error", "error": {"type": kind, "message": str(self)}}
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def style_of(path: str) -> Style:
    """The interface to which a path belongs."""
    if path.startswith("/api/"):
        return "ollama"
    return "anthropic" if path.startswith("/v1/messages") else "openai"


def told(error: BaseException) -> ApiError:
    """What a client is told of an error; what is none of its business goes to the log alone."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        return ApiError(429, "too many requests are waiting", code="queue_full")
    if isinstance(error, PromptError | OptionError | TaskError):
        long = "this bundle's context is" in str(error)
        return ApiError(400, _with_hint(error), code="context_length_exceeded" if long else None)
    if isinstance(error, DependencyError):
        return ApiError(501, _with_hint(error))
    if isinstance(error, DeviceError | MemoryError):
        LOG.error("out of means: %s", error)
        return ApiError(503, "this machine has not the memory for the request", code="out_of_memory")
    if isinstance(error, BundleError):
        LOG.error("the bundle cannot be used: %s", error)
        return ApiError(500, "the model cannot be loaded; the server's log says why")
    if isinstance(error, EdgeLMError):
        LOG.error("%s", error)
        return ApiError(500, "the generation failed; the server's log says why")
    LOG.error("internal: %s: %s", type(error).__name__, error, exc_info=error if _debugs() else None)
    return ApiError(500, "internal error")


def _with_hint(error: EdgeLMError) -> str:
    return str(error) if error.hint is None else f"{error} ({error.hint})"


def _debugs() -> bool:
    return os.environ.get("EDGELM_DEBUG", "") not in ("", "0")
