"""Texts under way: the model computes in a thread, the event loop reads what comes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

from edgelm.bundle.answer_grammar import KINDS
from edgelm.runtime.lm import LM
from edgelm.runtime.loop.results import Chunk, Timings
from edgelm.runtime.sample.logprobs import TokenLogprob
from edgelm.runtime.text.prompt import Prompt
from edgelm.serve.calls import CallReader, ToolCall, is_mark
from edgelm.serve.errors import LOG, ApiError
from edgelm.serve.marked import MarkedText
from edgelm.serve.metrics import Metrics
from edgelm.serve.pool import Pool, Served
from edgelm.serve.scored import scored_chunks
from edgelm.serve.thoughts import THOUGHT_MARKS, ThoughtReader, opened_by
from edgelm.serve.tool_messages import fitted

_FORMS = (*KINDS, "grammar")


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

    @property
    def chats(self) -> bool:
        """Whether its prompt is messages."""
        return isinstance(self.prompt, list) and bool(self.prompt) and isinstance(self.prompt[0], dict)

    @property
    def thinks(self) -> bool:
        """Whether the text may begin with a thought: an answer to messages that need not have a form."""
        return self.chats and not any(self.options.get(name) is not None for name in _FORMS)


@dataclass(frozen=True)
class Begun:
    """The request is sound; its prompt is being computed."""


@dataclass(frozen=True)
class Piece:
    """New text, or more of what the model thinks before it, or a call of a tool; and the tokens since the last piece."""

    text: str = ""
    thought: str = ""
    call: ToolCall | None = None
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True)
class End:
    """The text ended: ``stop``, ``length``, ``cancelled`` or ``deadline``; so many tools were called; the stop string met;
    about so many of the tokens were thoughts.
    """

    reason: str
    timings: Timings
    calls: int = 0
    stop: str | None = None
    thought_tokens: int = 0


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
                chunks = lm.astream(_for_template(lm, job), **options)
                self._note(lm, job)
                return chunks
            return scored_chunks(lm, job.prompt, job.score, options)

        return await asyncio.get_running_loop().run_in_executor(self._executor, make)


def _for_template(lm: LM, job: Job) -> Prompt:
    """Messages, with calls of tools as the model's template takes them; other prompts as they are."""
    if not job.chats or lm.template is None:
        return job.prompt
    messages: Any = job.prompt
    return fitted(lm.template.named(None, tools=True), messages)


class _Reading:
    """Makes events of chunks: thoughts and calls of tools are told from the text, and what the text cost is counted."""

    def __init__(self, lm: LM, job: Job, metrics: Metrics) -> None:
        self._lm, self._job, self._metrics = lm, job, metrics
        self._stop = tuple(job.options.get("stop") or ())
        self._reader = CallReader(job.tools, forced=job.forced) if job.tools else None
        self._thoughts = _thoughts(lm, job)
        self._marked = MarkedText(lm.tokenizer, self._stop, self._is_mark) if self._reads_marks() else None
        self._calls, self._shown, self._first, self._thought = 0, False, True, 0
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
            self._shown = self._shown or bool(piece.text or piece.thought) or piece.call is not None
            self._thought += len(piece.tokens) if piece.thought else 0
            self._calls += piece.call is not None
            yield piece
        if chunk.finish_reason is None or chunk.timings is None:
            return
        self._metrics.ended(chunk.finish_reason, chunk.timings)
        if chunk.finish_reason == "deadline" and not self._tokens:
            raise ApiError(503, "no place came free in time, or the prompt took too long", code="timeout")
        if hidden := self._hidden():
            yield Piece(hidden)
        reason = chunk.finish_reason
        yield End(reason, chunk.timings, self._calls, self._matched(reason), self._thought)

    def _pieces(self, chunk: Chunk) -> list[Piece]:
        text, thought, ends = chunk.text, "", chunk.finish_reason is not None
        if self._marked is not None:
            text = self._marked.push(chunk.tokens) + (self._marked.flush() if ends else "")
        if self._thoughts is not None:
            thought, text = self._thoughts.push(text)
            rest = self._thoughts.flush() if ends else ("", "")
            thought, text = thought + rest[0], text + rest[1]
        parts = [Piece(thought=thought)] if thought else []
        if self._reader is None:
            parts += [Piece(text)] if text or not parts else []
        else:
            found = self._reader.push(text) + (self._reader.flush() if ends else [])
            parts += [Piece(part) if isinstance(part, str) else Piece(call=part) for part in found]
        first, *others = parts or [Piece()]
        return [replace(first, tokens=chunk.tokens, logprobs=chunk.logprobs), *others]

    def _is_mark(self, name: str) -> bool:
        """Whether a special token of that name is read, though not shown."""
        return (self._reader is not None and is_mark(name)) or (self._thoughts is not None and name in THOUGHT_MARKS)

    def _reads_marks(self) -> bool:
        """Whether there are special tokens to read in the text: that of a forced call has none."""
        if self._reader is not None:
            return not self._job.forced
        return self._thoughts is not None and not THOUGHT_MARKS.isdisjoint(self._lm.tokenizer.special_names)

    def _matched(self, reason: str) -> str | None:
        """The stop string that ended the text, or None."""
        if reason != "stop" or not self._stop:
            return None
        text = MarkedText(self._lm.tokenizer, self._stop, self._is_mark)
        text.push(self._tokens)
        text.flush()
        return text.matched

    def _hidden(self) -> str:
        """The text of special tokens, where a model wrote nothing else: an answer is never empty without a word."""
        if self._shown or self._stop or not self._tokens:
            return ""
        LOG.warning("%s wrote %d special tokens and no text", self._job.model.name, len(self._tokens))
        return self._lm.tokenizer.decode(self._tokens, skip_special=False)


def _thoughts(lm: LM, job: Job) -> ThoughtReader | None:
    """What tells a job's thoughts from its text; None where it can have none."""
    if not job.thinks:
        return None
    template = None if lm.template is None else lm.template.named(None, tools=job.options.get("tools") is not None)
    return ThoughtReader(opened_by(template, job.options.get("template_args") or {}))
