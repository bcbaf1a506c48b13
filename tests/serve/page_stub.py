"""A server for the chat page alone: its files under the policy of `edgelm serve`, and answers that are scripted."""

from __future__ import annotations

import json
import mimetypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "edgelm" / "serve" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CONTEXT = 4096


@dataclass
class Stub:
    """What the server says, and what it was asked.

    Attributes:
        answers: text of the answer by the last message; what is not there is answered with `default`.
        pause: seconds before each piece of four characters (of more, where that made more than 1,000 pieces).
        key: the API key, or "" for none.
        busy: whether to answer 503.
        asked: bodies of /v1/chat/completions; left counts those whose client left before the end.
    """

    answers: dict[str, str] = field(default_factory=dict)
    default: str = "Certainly. Here is an answer."
    pause: float = 0.0
    key: str = ""
    busy: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)
    left: int = 0
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    stub: Stub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/v1/models":
            if not self._allowed():
                return
            names = ("qwen3-0.6b-rpi5-int4", "edgelm-home")
            self._json({"data": [{"id": name, "object": "model", "context": CONTEXT} for name in names]})
            return
        file = PAGE / (path.lstrip("/") or "index.html")
        if not file.resolve().is_relative_to(PAGE) or not file.is_file():
            self._json({"error": {"message": "not found"}}, 404)
            return
        self._send(file.read_bytes(), mimetypes.guess_type(file.name)[0] or "application/octet-stream")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._allowed():
            return
        if self.stub.busy:
            self._json({"error": {"message": "8 requests are waiting", "type": "busy"}}, 503)
            return
        self.stub.asked.append(body)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            self._answer(body)
        except OSError:
            self.stub.left += 1

    def _answer(self, body: dict[str, Any]) -> None:
        text = self.stub.answers.get(body["messages"][-1]["content"], self.stub.default)
        piece = max(4, len(text) // 1000)
        for start in range(0, len(text), piece):
            time.sleep(self.stub.pause)
            self._event({"choices": [{"index": 0, "delta": {"content": text[start : start + piece]}}]})
        count, prompt = -(-len(text) // 4), 20 * len(body["messages"])
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}
        self._event({"choices": [], "usage": usage, "timings": {"tokens_per_second": 41.7, "cached_tokens": 12}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, data: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()

    def _allowed(self) -> bool:
        if not self.stub.key or self.headers.get("Authorization") == f"Bearer {self.stub.key}":
            return True
        self._json({"error": {"message": "wrong API key"}}, 401)
        return False

    def _json(self, data: Any, status: int = 200) -> None:
        self._send(json.dumps(data).encode(), "application/json", status)

    def _send(self, data: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    """Serve the page on a free port of this machine; `stub.url` is where."""
    handler = type("Handler", (_Handler,), {"stub": stub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        stub.url = f"http://127.0.0.1:{server.server_address[1]}/"
        yield stub
        server.shutdown()
