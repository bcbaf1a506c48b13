"""Servers for tests: in a thread of this process, on a port of the loopback that was free."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, fields
from typing import Any

import httpx

from edgelm.runtime.loop.generate import FinishReason
from edgelm.runtime.loop.results import Chunk, SchedulerStats, Timings
from edgelm.runtime.text.tokenizer import Detokenizer, Tokenizer
from edgelm.serve.app import Application, build
from edgelm.serve.server import Server, listen
from edgelm.serve.settings import Settings

# One for all tests, since making one takes a while; connections are not kept, for some servers allow few.
CLIENT = httpx.Client(timeout=60, verify=False, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
HELLO = [{"role": "user", "content": "turn on the lamp in the kitchen"}]
LAMP = '{"actions":[{"device":"light","room":"kitchen","set":"on","value":true}]}'

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "set_light",
        "description": "Switches a light.",
        "parameters": {"type": "object", "properties": {"room": {"enum": ["kitchen", "attic"]}}, "required": ["room"]},
    },
}
CALL = '<tool_call>\n{"name": "set_light", "arguments": {"room": "kitchen"}}\n</tool_call>'


@dataclass(frozen=True)
class Running:
    """A server under way."""

    url: str
    port: int
    application: Application
    server: Server

    def post(self, path: str, json: Any, **more: Any) -> httpx.Response:
        return CLIENT.post(self.url + path, json=json, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return CLIENT.get(self.url + path, **more)

    def metric(self, name: str) -> float:
        (line,) = [line for line in self.get("/metrics").text.splitlines() if line.startswith(name)]
        return float(line.rpartition(" ")[2])

    def wait_for(self, name: str, value: float, seconds: float = 10) -> float:
        """The seconds until a metric has a value."""
        started = time.monotonic()
        while self.metric(name) != value:
            assert time.monotonic() - started < seconds, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.01)
        return time.monotonic() - started


@contextlib.contextmanager
def serving(settings: Settings, buffer: int | None = None, **more: Any) -> Iterator[Running]:
    """A server; `buffer` is how many bytes the kernel holds of what a client does not read."""
    application = build(settings, **more)
    listening, address = listen(settings)
    if buffer is not None:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    ready = threading.Event()
    server = Server(application, ready.set)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield Running(address, 0 if settings.socket else listening.getsockname()[1], application, server)
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()
        assert not thread.is_alive()


class Scripted:
    """A model that says what it is told to, a few tokens at a time, and remembers what it was asked.

    Args:
        tokenizer: of the bundle.
        text: what it says; names of special tokens in it are those tokens.
        pause: seconds between two tokens.
        size: tokens of a chunk.
    """

    def __init__(self, tokenizer: Tokenizer, text: str, pause: float = 0.0, size: int = 1) -> None:
        self.tokenizer, self.text, self.pause, self.size = tokenizer, text, pause, size
        self.asked: list[tuple[Any, dict[str, Any]]] = []
        self.steps = self.running = 0
        self.template = None
        self.closed = self.cancelled = False

    def astream(self, prompt: Any, **options: Any) -> AsyncGenerator[Chunk, None]:
        self.asked.append((prompt, options))
        return self.chunks(options)

    async def chunks(self, options: dict[str, Any]) -> AsyncGenerator[Chunk, None]:
        ids, shown, batch = self.tokenizer.encode(self.text, special=False), Detokenizer(self.tokenizer), list[int]()
        most = options["max_tokens"]
        reason: FinishReason = "length" if len(ids) > most else "stop"
        self.running += 1
        try:
            for count, token in enumerate(ids[:most], 1):
                await asyncio.sleep(self.pause)
                if self.cancelled:
                    reason = "cancelled"
                    break
                self.steps += 1
                batch.append(token)
                if count % self.size == 0:
                    yield Chunk("".join(map(shown.push, batch)), tuple(batch))
                    batch = []
            rest = "".join(map(shown.push, batch)) + shown.flush()
            count = min(len(ids), most)
            yield Chunk(rest, tuple(batch), reason, Timings(7, 0, count, 0.01, 0.01, 0.01 * count))
        finally:
            self.running -= 1

    def scheduler_stats(self) -> SchedulerStats:
        zero = dict.fromkeys((field.name for field in fields(SchedulerStats)), 0)
        return SchedulerStats(**zero | {"running": self.running})

    def cancel(self) -> None:
        self.cancelled = True

    def close(self) -> None:
        self.closed = True
