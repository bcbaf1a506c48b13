"""A request under way in a batch: what it has yet to read, and what becomes of the logits that it is given."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgelm.errors import PromptError
from edgelm.runtime.loop.chunks import Output, choosing
from edgelm.runtime.loop.generate import FinishReason
from edgelm.runtime.loop.request import Request
from edgelm.runtime.loop.results import Chunk, Timings
from edgelm.runtime.sample.sampling import Floats
from edgelm.runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgelm.runtime.model import Sequence as TextSequence

Deliver = Callable[[Chunk | BaseException], None]
"""Called with every chunk of a request, the last of which has a finish_reason, or with what ended it."""


class Running:
    """A request, from the queue to its last chunk.

    Args:
        request: what is generated.
        tokenizer: of the model.
        deliver: where its chunks go.
        patient: whether nobody waits for single tokens: prompts of others are then read at full speed beside it.

    Attributes:
        history: the prompt and every token since.
        sequence: where it is read; None while it waits.
        source: a text under way whose beginning it shares and will copy, and how many tokens of it; or None.
        last_read: the round in which a piece of it was read.
    """

    def __init__(self, request: Request, tokenizer: Tokenizer, deliver: Deliver, *, patient: bool = False) -> None:
        self.request, self.patient, self._deliver = request, patient, deliver
        self.history = [int(i) for i in request.ids]
        self.sequence: TextSequence | None = None
        self.source: tuple[Running, int] | None = None
        self.last_read = 0
        self._last: Chunk | BaseException | None = None
        self._out = Output(request, tokenizer)
        self._sampler, _, self._follow = choosing(request, tokenizer, None, self._out.records)
        self._left = request.limits.max_tokens
        self._clock = _Clock(len(self.history), request.encode_seconds)

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self._last is not None

    @property
    def unread(self) -> int:
        """How many tokens its sequence lacks."""
        return len(self.history) - (0 if self.sequence is None else self.sequence.position)

    @property
    def reads(self) -> bool:
        """Whether there is more to read than the one token that a pass of all texts takes."""
        return self.unread > 1

    @property
    def next_id(self) -> int:
        """The first token that its sequence lacks."""
        assert self.sequence is not None
        return self.history[self.sequence.position]

    @property
    def most(self) -> int:
        """Tokens that its sequence may come to hold."""
        return len(self.request.ids) + self.request.limits.max_tokens

    def begin(self, sequence: TextSequence, cached: int) -> None:
        """It has a sequence, which holds `cached` tokens of it already."""
        if len(self.history) > sequence.context:
            raise PromptError(f"the prompt has {len(self.history):,} tokens, the context is {sequence.context:,}")
        if not self.history:
            raise PromptError("the prompt is empty")
        self.sequence = sequence
        self._clock.begin(cached)
        if self.request.echo:
            self._deliver(self._out.echo(self.request.echo))

    def copied(self, tokens: int) -> None:
        """So many tokens more of its prompt need not be computed."""
        self._clock.cached += tokens

    def interrupted(self) -> bool:
        """End it where its deadline or its caller says so; whether it has ended."""
        if not self.ended and (reason := self.request.limits.interrupt()):
            self.end(reason)
        return self.ended

    def piece(self, size: int) -> tuple[list[int], int]:
        """The next tokens to read alone, at most `size`, and whether the logits behind them are wanted.

        A model that keeps states after passes of several tokens reads the last of a prompt by itself: see `prefill_pieces`.
        """
        assert self.sequence is not None
        start, end = self.sequence.position, len(self.history)
        if not self.sequence.rewinds and not self._clock.tokens:
            end -= 1
        stop = min(start + size, end)
        return self.history[start:stop], int(stop == len(self.history))

    def advance(self, logits: Floats) -> None:
        """Choose what follows `logits` [V], and deliver what of it may be shown."""
        assert self.sequence is not None
        token = self._sampler(logits, self.history)
        if token in self.request.limits.eos:
            return self.end("stop")
        tokens, finished = self._follow(token)
        reason: FinishReason | None = None
        for index, each in enumerate(tokens, 1):
            self._clock.token()
            self._left -= 1
            self.history.append(each)
            self._out.push(each)
            if self._out.stopped:
                reason = "stop"
            elif (not self._left or len(self.history) > self.sequence.context) and not (
                finished and index == len(tokens)
            ):
                reason = "length"
            if reason:
                return self.end(reason)
        if finished:
            return self.end("stop")
        if self._out.text:
            self._deliver(self._out.take())
        return None

    def end(self, reason: FinishReason) -> None:
        """It has come to its end; `hand_over` delivers the last chunk."""
        if not self._out.stopped:
            self._out.flush()
        self._last = self._out.take("stop" if self._out.stopped else reason, self._clock.timings())

    def fail(self, error: BaseException) -> None:
        """It ends with an error, which `hand_over` delivers."""
        if not self.ended:
            self._last = copy.copy(error)  # others may be told the same, each with a traceback of its own
            self._last.__cause__ = error

    def hand_over(self) -> None:
        """Deliver the last chunk, or the error; by then all is as its caller is told."""
        assert self._last is not None
        self._deliver(self._last)


class _Clock:
    """When what came: in a batch all times are the clock's, those of other texts' passes included."""

    def __init__(self, prompt_tokens: int, encode_seconds: float) -> None:
        self._prompt, self._encode = prompt_tokens, encode_seconds
        self._made = self._begun = self._first = self._last = time.perf_counter()
        self.tokens = self.cached = 0

    def begin(self, cached: int) -> None:
        """It waits no longer."""
        self._begun, self.cached = time.perf_counter(), cached

    def token(self) -> None:
        """A token has come."""
        self._last = time.perf_counter()
        if not self.tokens:
            self._first = self._last
        self.tokens += 1

    def timings(self) -> Timings:
        """The times so far."""
        if not self.tokens:
            return Timings(self._prompt, self.cached, 0, None, 0.0, 0.0)
        ttft, prefill = self._encode + self._first - self._made, self._first - self._begun
        return Timings(self._prompt, self.cached, self.tokens, ttft, prefill, self._last - self._first)
