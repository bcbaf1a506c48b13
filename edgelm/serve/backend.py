"""What all interfaces share: the models, and how a request becomes texts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgelm.runtime.loop.results import Timings
from edgelm.runtime.sample.logprobs import TokenLogprob
from edgelm.serve.body import Body, read_body
from edgelm.serve.calls import ToolCall
from edgelm.serve.clocks import ClockWatch
from edgelm.serve.errors import LOG, ApiError
from edgelm.serve.generation import Begun, End, Event, Generations, Job, Piece
from edgelm.serve.metrics import Metrics
from edgelm.serve.pool import Pool, Served
from edgelm.serve.settings import Settings

Events = AsyncGenerator[tuple[int, Event], None]


@dataclass(frozen=True)
class Backend:
    """A server's parts."""

    settings: Settings
    pool: Pool
    generations: Generations
    metrics: Metrics
    clocks: ClockWatch = field(default_factory=ClockWatch)
    unaware: set[str] = field(default_factory=set)  # models whose template knows no tools, and was given some

    def model(self, body: Body) -> Served:
        """The model that a request names."""
        return self.pool.find(body.text("model"))

    def job(self, model: Served, prompt: Any, options: dict[str, Any], **more: Any) -> Job:
        """A text; without a number of tokens it may fill the context."""
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
            self.clocks.look(model.name, prompt)
        if options.get("tools") and model.name not in self.unaware and not _knows_tools(model):
            self.unaware.add(model.name)
            LOG.warning("%s is given tools, but its chat template knows none: it does not see them", model.name)
        given = {"max_tokens": model.bundle.context, **{k: v for k, v in options.items() if v is not None}}
        if not self.settings.answer_grammar:
            given["answer_grammar"] = False
        return Job(model, prompt, given, **more)

    async def begin(self, jobs: Sequence[Job]) -> Events:
        """The events of jobs whose arguments have proved sound: what follows can only fail in the middle.

        Raises:
            ApiError: too many jobs; and what `Generations.run` raises.
        """
        most = self.settings.limits.choices
        if len(jobs) > most:
            raise ApiError(400, f"a request may ask for at most {most} texts", code="too_many")
        events = self.generations.run(jobs)
        try:
            number, first = await anext(events)
        except BaseException:
            await events.aclose()
            raise
        assert isinstance(first, Begun), number
        return events


@dataclass
class Answer:
    """A text that is collected."""

    text: str = ""
    thought: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end: End | None = None

    def take(self, event: Event) -> None:
        """The next event of the text."""
        if isinstance(event, Piece):
            self.text += event.text
            self.thought += event.thought
            self.calls += [event.call] if event.call is not None else []
            self.logprobs += event.logprobs or ()
        elif isinstance(event, End):
            self.end = event

    @property
    def timings(self) -> Timings:
        """Of the text, which has ended."""
        assert self.end is not None
        return self.end.timings

    @property
    def reason(self) -> str:
        """Why it ended, see `End`."""
        assert self.end is not None
        return self.end.reason


async def collect(events: Events, count: int) -> list[Answer]:
    """The whole texts of so many jobs."""
    answers = [Answer() for _ in range(count)]
    async with contextlib.aclosing(events):
        async for number, happened in events:
            answers[number].take(happened)
    return answers


Handler = Callable[[Backend, Body], Awaitable[Response]]


class Endpoint:
    """A route's application: reads the body, and ends the work where the client leaves."""

    def __init__(self, backend: Backend, handle: Handler) -> None:
        self._backend, self._handle = backend, handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        request = Request(scope, receive)
        body = await read_body(request) if scope["method"] == "POST" else Body(dict(request.query_params))
        work = asyncio.create_task(self._work(body, scope, receive, send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _work(self, body: Body, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handle(self._backend, body)
        await response(scope, receive, send)


async def _gone(receive: Receive) -> None:
    """Returns when the client has left, or has its answer."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _knows_tools(model: Served) -> bool:
    """Whether one of a model's chat templates looks at tools."""
    templates = (model.bundle.chat_template or "", *model.bundle.chat_templates.values())
    return any("tools" in template for template in templates)
