"""A server on this machine that speaks as much of the hub's protocol as its client needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit


class Request(NamedTuple):
    method: str
    path: str
    range: str | None


@dataclass
class Hub:
    """What is on the hub, how it misbehaves, and what it was asked.

    Attributes:
        revisions: (model id, branch or tag) → commit; a commit stands for itself.
        files: (model id, commit) → file name → bytes.
        gated: ids whose files are not given out.
        broken_after: file name → bytes after which the connection breaks, each time.
        status: if set, the answer to everything.
        whole_only: whether no part of a file is given.
        sent: file name → bytes given in answer.
    """

    revisions: dict[tuple[str, str], str] = field(default_factory=dict)
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    broken_after: dict[str, int] = field(default_factory=dict)
    status: int | None = None
    whole_only: bool = False
    sent: dict[str, int] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def publish(self, model: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Put a new commit under `revision`; the commit."""
        digest = hashlib.sha1(repr([model, revision, sorted(files.items())]).encode()).hexdigest()
        self.revisions[model, revision] = digest
        self.files[model, digest] = files
        return digest

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for."""
        return sorted({r.path.rsplit("/", 1)[1] for r in self.requests if r.method == "GET" and "/resolve/" in r.path})

    def commit(self, model: str, revision: str) -> str | None:
        if (model, revision) in self.files:
            return revision
        return self.revisions.get((model, revision))


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """`hub` reachable at `hub.url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(Request(self.command, path, self.headers.get("Range")))
            parts = path.strip("/").split("/")
            if hub.status is not None:
                self.refuse(hub.status)
            elif parts[:2] == ["api", "models"]:
                self.describe("/".join(parts[2:4]), "/".join(parts[5:]) or "main", tree=parts[4:5] == ["tree"])
            elif parts[2:3] == ["resolve"]:
                self.file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            else:
                self.refuse(404)

        def describe(self, model: str, revision: str, *, tree: bool) -> None:
            if not any(known == model for known, _ in hub.files):
                return self.refuse(401, "RepoNotFound")
            commit = hub.commit(model, revision)
            if commit is None:
                return self.refuse(404, "RevisionNotFound")
            found: object
            files = sorted(hub.files[model, commit].items())
            if tree:
                found = [
                    {"type": "file", "path": k, "size": len(v), "oid": hashlib.sha1(v).hexdigest()} for k, v in files
                ]
            else:
                siblings = [{"rfilename": name} for name, _ in files]
                found = {"id": model, "modelId": model, "sha": commit, "tags": [], "siblings": siblings}
            return self.give(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

        def file(self, model: str, revision: str, name: str) -> None:
            commit = hub.commit(model, revision)
            if commit is None or name not in hub.files[model, commit]:
                return self.refuse(404, "EntryNotFound")
            if model in hub.gated:
                return self.refuse(403, "GatedRepo")
            body = hub.files[model, commit][name]
            headers = {
                "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
                "X-Repo-Commit": commit,
                "Accept-Ranges": "bytes",
            }
            asked = None if hub.whole_only else self.headers.get("Range")
            first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(body)) + 1, len(body))
            if asked:
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
            limit = hub.broken_after.get(name)
            if self.command == "GET":
                hub.sent[name] = hub.sent.get(name, 0) + end - start
            return self.give(206 if asked else 200, body[start:end], headers, None if limit is None else limit - start)

        def refuse(self, status: int, code: str = "") -> None:
            self.give(status, b"", {"X-Error-Code": code} if code else {})

        def give(self, status: int, body: bytes, headers: dict[str, str], limit: int | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body if limit is None else body[: max(0, limit)])
                if limit is not None:
                    self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
