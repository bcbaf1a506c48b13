"""The generation loop: ids in, ids out."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from edgelm.errors import PromptError
from edgelm.runtime.sample.sampling import Floats, Sampler

if TYPE_CHECKING:
    from edgelm.runtime.model import Sequence as TextSequence

FinishReason = Literal["stop", "length", "cancelled", "deadline"]
Interrupt = Callable[[], FinishReason | None]
Follow = Callable[[int], tuple[Sequence[int], bool]]
"""A sampled token → that token and any that must come after it, and whether the text ends with them."""


class Drafter(Protocol):
    """Drafts what comes next; see `PromptLookup`."""

    def draft(self, history: Sequence[int], limit: int) -> list[int]:
        """At most `limit` tokens that may follow `history`."""

    def checked(self, drafted: int, accepted: int, position: int) -> None:
        """How many tokens of the last draft were accepted; the text has `position` tokens now."""

    def passed(self, tokens: int, seconds: float) -> None:
        """What a pass took."""


@dataclass(frozen=True)
class Limits:
    """When a text ends.

    Attributes:
        max_tokens: tokens to yield at most.
        eos: ids that end the text; they are not yielded.
        interrupt: asked before every forward pass; a reason ends the generation there.
    """

    max_tokens: int
    eos: Collection[int] = ()
    interrupt: Interrupt = lambda: None


def generate_step(
    engine: TextSequence,
    prompt_ids: Sequence[int],
    sampler: Sampler,
    limits: Limits,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    prefill_chunk: int | None = None,
    drafter: Drafter | None = None,
    follow: Follow = lambda token: ((token,), False),
) -> Generator[int, None, FinishReason]:
    """Prefill the prompt, then sample, yield and feed back one token after the other.

    No pass runs whose logits nobody needs: a token is fed back only when the next one is asked for, and the last
    one never. When the generator ends or is closed, the engine holds the prompt and tokens yielded, and nothing else.

    Args:
        engine: an Engine, or another sequence; its KV cache holds the first ``engine.position`` tokens of the prompt
            already, 0 for a fresh start.
        prompt_ids: the whole prompt, at least one token longer than what is cached.
        sampler: from `make_sampler`; sees the prompt and every token since.
        limits: when the text ends.
        progress: called with (tokens in the cache, tokens of the prompt) after every pass of the prefill.
        prefill_chunk: tokens of the prompt per pass; None for what suits the engine.
        drafter: drafts tokens, which are then checked in one pass; None for one token per pass.
        follow: called with every token sampled.

    Yields:
        the generated ids.

    Returns:
        ``stop`` (an id of `eos`, or the end that `follow` told of), ``length`` (`max_tokens`, or the context is full), or
            what `interrupt` gave.

    Raises:
        PromptError: the prompt is empty, or longer than the context.
    """
    history = [int(i) for i in prompt_ids]
    if len(history) > engine.context:
        raise PromptError(f"the prompt has {len(history):,} tokens, the context is {engine.context:,}")
    if engine.position >= len(history):
        raise PromptError("the prompt is empty" if not history else "the prompt holds nothing new to this engine")
    passes = engine.prefill_passes(history[engine.position :], prefill_chunk)
    while engine.position < len(history):
        if reason := limits.interrupt():
            return reason
        logits = next(passes)
        progress(engine.position, len(history))
    text = _Text(engine, history, logits, drafter)
    return (yield from _decode(text, sampler, follow, limits))


def _decode(text: _Text, sampler: Sampler, follow: Follow, limits: Limits) -> Generator[int, None, FinishReason]:
    left = limits.max_tokens
    try:
        while True:
            token = sampler(text.logits(), text.history)
            if token in limits.eos:
                return "stop"
            tokens, finished = follow(token)
            for index, token in enumerate(tokens, 1):
                left -= 1
                text.history.append(token)
                yield token
                if (not left or text.full) and not (finished and index == len(tokens)):
                    return "length"
            if finished:
                return "stop"
            if text.needs_pass:
                if reason := limits.interrupt():
                    return reason
                text.read(left)
    finally:
        text.commit_draft()


class _Text:
    """The text so far, and the logits of what may follow it: of its last token, or along a draft accepted so far.

    Args:
        engine: holds `history`.
        history: the prompt; every token is added to it.
        logits: after the prompt, [1, V].
        drafter: drafts tokens, or None.
    """

    def __init__(self, engine: TextSequence, history: list[int], logits: Floats, drafter: Drafter | None) -> None:
        self._engine, self.history, self._rows, self._drafter = engine, history, logits, drafter
        self._draft: list[int] = []
        self._start = len(history)  # where the draft begins
        self._tokens, self._seconds = 0, 0.0  # of the last pass

    @property
    def full(self) -> bool:
        """Whether the last token has no place in the context."""
        return len(self.history) > self._engine.context

    @property
    def needs_pass(self) -> bool:
        """Whether there are no logits yet for what follows."""
        return self._accepted < len(self.history) - self._start

    @property
    def _accepted(self) -> int:
        """How many tokens of the draft are those that came."""
        came = self.history[self._start : self._start + len(self._draft)]
        pairs = enumerate(zip(came, self._draft, strict=False))
        return next((index for index, (token, guess) in pairs if token != guess), len(came))

    def logits(self) -> Floats:
        """After the last token, [V]."""
        row: Floats = self._rows[len(self.history) - self._start]
        return row

    def read(self, left: int) -> None:
        """Read what the engine lacks, and a draft of at most `left` - 1 tokens behind it."""
        self.commit_draft()
        engine, history = self._engine, self.history
        limit = min(left - 1, engine.context - len(history))
        if self._drafter is not None and (room := engine.room_after(len(history))) is not None:
            limit = min(limit, room)
        self._draft = self._drafter.draft(history, limit) if self._drafter is not None and limit > 0 else []
        new = history[engine.position :]
        self._start = len(history)
        started = time.perf_counter()
        self._rows = engine.forward(new + self._draft, len(self._draft) + 1)
        self._tokens, self._seconds = len(new) + len(self._draft), time.perf_counter() - started

    def commit_draft(self) -> None:
        """Take back draft tokens that were rejected, and tell the drafter how it went."""
        if self._drafter is None or not self._tokens:
            return
        started, accepted = time.perf_counter(), self._accepted
        if self._engine.position > self._start + accepted:
            self._engine.rewind(self._start + accepted)
        if self._draft:
            self._drafter.checked(len(self._draft), accepted, len(self.history))
        self._drafter.passed(self._tokens, self._seconds + time.perf_counter() - started)
        self._draft, self._tokens = [], 0
