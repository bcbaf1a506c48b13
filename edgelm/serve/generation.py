"""Texts under way: the model computes in a thread, the event loop reads what comes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from edgelm.runtime.lm import LM
from edgelm.runtime.loop.results import Chunk, Timings
from edgelm.runtime.sample.logprobs import TokenLogprob
from edgelm.runtime.text.prompt import Prompt
from edgelm.serve.calls import CallReader, ToolCall
from edgelm.serve.errors import LOG, ApiError
from edgelm.serve.marked import MarkedText
from edgelm.serve.metrics import Metrics
from edgelm.serve.pool import Pool, Served
from edgelm.serve.scored import scored_chunks
from edgelm.serve.tool_messages import fitted


@dataclass(frozen=True)
class Job:
    """A text that is asked for.

    Attributes:
        model: of which.
        prompt: see `LM.stream`.
        options: see `LM.stream`.
        tools: whose calls are looked for in the text, as OpenAI's interface has them.
        forced: whether the whole text is a call, as JSON.
        score: whether a raw prompt's own tokens are described, too: with so many of the most likely; or None.
        arrived: when the request came, by ``time.monotonic``.
    """

    model: Served
    prompt: Prompt
    options: Mapping[str, Any]
    tools: Sequence[Mapping[str, Any]] = ()
    forced: bool = False
    score: int | None = None
    arrived: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Begun:
    """The request is sound; its prompt is being computed."""


@dataclass(frozen=True)
class Piece:
    """New text, or a call of a tool; and the tokens since the last piece."""

    text: str = ""
    call: ToolCall | None = None
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True)
class End:
    """The text ended: ``stop``, ``length``, ``cancelled`` or ``deadline``; so many tools were called; the stop string met."""

    reason: str
    timings: Timings
    calls: int = 0
    stop: str | None = None


Event = Begun | Piece | End


class Generations:
    """Runs jobs.

    Args:
        pool: of the models.
        executor: whose threads make requests of prompts, which may be long.
        metrics: of the server.
        seconds: from a request's arrival to the end of its text.
        note: called with every job in one of these threads.
    """

    def __init__(
        self, pool: Pool, executor: Executor, metrics: Metrics, seconds: float, note: Callable[[LM, Job], None]
    ) -> None:
        self._pool, self._executor, self._metrics, self._seconds = pool, executor, metrics, seconds
        self._note = note

    def cancel_all(self) -> None:
        """End every text before its next step, and all that wait."""
        for model in self._pool.models.values():
            if model.lm is not None:
                model.lm.cancel()

    async def run(self, jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, Event], None]:
        """The events of some jobs, each with the number of its job. Closing the generator ends all before their next step.

        Raises:
            ApiError, EdgeLMError: one of them cannot be done; the others end then.
        """
        if len(jobs) == 1:
            async with contextlib.aclosing(self._one(jobs[0])) as only:
                async for happened in only:
                    yield 0, happened
            return
        queue: asyncio.Queue[tuple[int, Event | BaseException | None]] = asyncio.Queue()
        tasks = [asyncio.create_task(self._into(queue, number, job)) for number, job in enumerate(jobs)]
        try:
            left = len(tasks)
            while left:
                number, event = await queue.get()
                if event is None:
                    left -= 1
                elif isinstance(event, BaseException):
                    raise event
                else:
                    yield number, event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _into(
        self, queue: asyncio.Queue[tuple[int, Event | BaseException | None]], number: int, job: Job
    ) -> None:
        try:
            async with contextlib.aclosing(self._one(job)) as events:
                async for event in events:
                    queue.put_nowait((number, event))
        except Exception as error:
            queue.put_nowait((number, error))
        queue.put_nowait((number, None))

    async def _one(self, job: Job) -> AsyncGenerator[Event, None]:
        """The events of a job, which waits for its turn in the model's queue. Closed, it ends before the next step."""
        async with self._pool.using(job.model) as lm, contextlib.aclosing(await self._begin(lm, job)) as chunks:
            first = asyncio.ensure_future(anext(chunks))
            try:
                await asyncio.sleep(0)  # a queue that is full says so at once
                if not first.done():
                    yield Begun()
                reading = _Reading(lm, job, self._metrics)
                for event in reading.events(await first):
                    yield event
                async for chunk in chunks:
                    for event in reading.events(chunk):
                        yield event
            finally:
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)

    async def _begin(self, lm: LM, job: Job) -> AsyncGenerator[Chunk, None]:
        """The chunks of a job, whose arguments have proved sound."""
        left = job.arrived + self._seconds - time.monotonic()
        if left <= 0:
            raise ApiError(503, "no place came free in time", code="timeout")
        options = {"deadline": left, **job.options}

        def make() -> AsyncGenerator[Chunk, None]:
            if job.score is None:
                chunks = lm.astream(_for_template(lm, job.prompt), **options)
                self._note(lm, job)
                return chunks
            return scored_chunks(lm, job.prompt, job.score, options)

        return await asyncio.get_running_loop().run_in_executor(self._executor, make)


def _for_template(lm: LM, prompt: Any) -> Prompt:
    """Messages, with calls of tools as the model's template takes them; other prompts as they are."""
    messages = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], dict)
    if not messages or lm.template is None:
        given: Prompt = prompt
        return given
    return fitted(lm.template.named(None, tools=True), prompt)


class _Reading:
    """Makes events of chunks: tools that are called are told from the text, and what the text cost is counted."""

    def __init__(self, lm: LM, job: Job, metrics: Metrics) -> None:
        self._lm, self._job, self._metrics = lm, job, metrics
        self._stop = tuple(job.options.get("stop") or ())
        self._marked = MarkedText(lm.tokenizer, self._stop) if job.tools and not job.forced else None
        self._reader = CallReader(job.tools, forced=job.forced) if job.tools else None
        self._calls, self._shown, self._first = 0, False, True
        self._tokens: list[int] = []

    def events(self, chunk: Chunk) -> Iterator[Event]:
        """The events of the next chunk.

        Raises:
            ApiError: the time was up before anything came.
        """
        if self._first and chunk.tokens:
            self._first = False
            self._metrics.first_token(time.monotonic() - self._job.arrived)
        self._tokens += chunk.tokens
        for piece in self._pieces(chunk):
            self._shown = self._shown or bool(piece.text) or piece.call is not None
            self._calls += piece.call is not None
            yield piece
        if chunk.finish_reason is None or chunk.timings is None:
            return
        self._metrics.ended(chunk.finish_reason, chunk.timings)
        if chunk.finish_reason == "deadline" and not self._tokens:
            raise ApiError(503, "no place came free in time, or the prompt took too long", code="timeout")
        if hidden := self._hidden():
            yield Piece(hidden)
        yield End(chunk.finish_reason, chunk.timings, self._calls, self._matched(chunk.finish_reason))

    def _pieces(self, chunk: Chunk) -> list[Piece]:
        if self._reader is None:
            return [Piece(chunk.text, None, chunk.tokens, chunk.logprobs)]
        text = chunk.text
        if self._marked is not None:
            text = self._marked.push(chunk.tokens) + (self._marked.flush() if chunk.finish_reason else "")
        found = self._reader.push(text) + (self._reader.flush() if chunk.finish_reason else [])
        parts = [Piece(part) if isinstance(part, str) else Piece(call=part) for part in found] or [Piece()]
        return [Piece(parts[0].text, parts[0].call, chunk.tokens, chunk.logprobs), *parts[1:]]

    def _matched(self, reason: str) -> str | None:
        """The stop string that ended the text, or None."""
        if reason != "stop" or not self._stop:
            return None
        text = MarkedText(self._lm.tokenizer, self._stop)
        text.push(self._tokens)
        text.flush()
        return text.matched

    def _hidden(self) -> str:
        """The text of special tokens, where a model wrote nothing else: an answer is never empty without a word."""
        if self._shown or self._stop or not self._tokens:
            return ""
        LOG.warning("%s wrote %d special tokens and no text", self._job.model.name, len(self._tokens))
        return self._lm.tokenizer.decode(self._tokens, skip_special=False)
