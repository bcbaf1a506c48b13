"""Texts under way: the model computes in a thread, the event loop reads what comes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
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
        executor: whose threads compute; as many as there are texts at once.
        metrics: of the server.
        seconds: from a request's arrival to the end of its text.
    """

    def __init__(self, pool: Pool, executor: Executor, metrics: Metrics, seconds: float) -> None:
        self._pool, self._executor, self._metrics, self._seconds = pool, executor, metrics, seconds
        self._running: set[threading.Event] = set()

    def cancel_all(self) -> None:
        """End every text before its next step."""
        for cancel in list(self._running):
            cancel.set()

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
        """The events of a job, which waits for its turn first."""
        async with self._pool.using(job.model) as lm, job.model.turns.turn(self._left(job)):
            if (left := self._left(job)) <= 0:
                raise ApiError(503, "no place came free in time", code="timeout")
            cancel = threading.Event()
            self._running.add(cancel)
            try:
                pump = _Pump(lm, job, {"deadline": left, "cancel": cancel, **job.options})
                async with contextlib.aclosing(pump.chunks(self._executor, cancel)) as chunks:
                    async for event in _Reading(lm, job, self._metrics).events(chunks):
                        yield event
            finally:
                self._running.discard(cancel)

    def _left(self, job: Job) -> float:
        return job.arrived + self._seconds - time.monotonic()


class _Pump:
    """Carries chunks from the thread that computes to the event loop."""

    def __init__(self, lm: LM, job: Job, options: dict[str, Any]) -> None:
        self._lm, self._job, self._options = lm, job, options
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Begun | Chunk | BaseException | None] = asyncio.Queue()

    async def chunks(self, executor: Executor, cancel: threading.Event) -> AsyncGenerator[Begun | Chunk, None]:
        """What the model gives; where the reader leaves, the generation ends before its next step."""
        thread = self._loop.run_in_executor(executor, self._work)
        try:
            while (item := await self._queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            cancel.set()
            # A thread cannot be stopped within a pass; until it is out of it, the model is not free.
            while not thread.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([thread])

    def _work(self) -> None:
        try:
            chunks = self._chunks()
            with contextlib.closing(chunks):
                self._put(Begun())
                for chunk in chunks:
                    self._put(chunk)
        except BaseException as error:
            self._put(error)
        self._put(None)

    def _chunks(self) -> Generator[Chunk, None, None]:
        if self._job.score is None:
            return self._lm.stream(self._job.prompt, **self._options)
        return scored_chunks(self._lm, self._job.prompt, self._job.score, self._options)

    def _put(self, item: Begun | Chunk | BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)


class _Reading:
    """Makes events of chunks: tools that are called are told from the text, and what the text cost is counted."""

    def __init__(self, lm: LM, job: Job, metrics: Metrics) -> None:
        self._lm, self._job, self._metrics = lm, job, metrics
        self._stop = tuple(job.options.get("stop") or ())
        self._marked = MarkedText(lm.tokenizer, self._stop) if job.tools and not job.forced else None
        self._reader = CallReader(job.tools, forced=job.forced) if job.tools else None
        self._calls, self._shown, self._first = 0, False, True
        self._tokens: list[int] = []

    async def events(self, chunks: AsyncIterator[Begun | Chunk]) -> AsyncGenerator[Event, None]:
        """The events of a job's chunks."""
        async for chunk in chunks:
            if isinstance(chunk, Begun):
                yield chunk
                continue
            if self._first and chunk.tokens:
                self._first = False
                self._metrics.first_token(time.monotonic() - self._job.arrived)
            self._tokens += chunk.tokens
            for piece in self._pieces(chunk):
                self._shown = self._shown or bool(piece.text) or piece.call is not None
                self._calls += piece.call is not None
                yield piece
            if chunk.finish_reason is not None and chunk.timings is not None:
                if hidden := self._hidden():
                    yield Piece(hidden)
                self._metrics.ended(chunk.finish_reason, chunk.timings)
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
