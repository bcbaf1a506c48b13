"""The chat page: every file in the folder ``page``, served as it is and by its own name alone."""

from __future__ import annotations

import mimetypes
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PAGE = Path(__file__).resolve().parent / "page"
_NOTHING = b"edgelm serves here; this install has no chat page.\n"
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".svg": "image/svg+xml", ".css": "text/css"}
_TYPES |= {".html": "text/html", ".json": "application/json", ".webmanifest": "application/manifest+json"}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-cache",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def page_routes(folder: Path = PAGE) -> list[Route]:
    """A route for each file; ``index.html`` is ``/``, too."""
    files = {f"/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*")) if _is_public(path)}
    routes = [Route(name, _serve(path.read_bytes(), _type(path))) for name, path in files.items()]
    index = files.get("/index.html")
    first = _serve(_NOTHING, "text/plain") if index is None else _serve(index.read_bytes(), _type(index))
    return [Route("/", first), *routes]


def _is_public(path: Path) -> bool:
    inside = path.relative_to(PAGE).parts if path.is_relative_to(PAGE) else path.parts[-1:]
    return path.is_file() and not path.is_symlink() and not any(part.startswith((".", "_")) for part in inside)


def _type(path: Path) -> str:
    return _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def _serve(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    tag = f'"{sha256(content).hexdigest()[:32]}"'
    headers: Mapping[str, str] = {**_HEADERS, "etag": tag}

    async def page(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(None, 304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return page
