"""What a generation gives: text in chunks or whole, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from edgelm.runtime.loop.generate import FinishReason

if TYPE_CHECKING:
    from edgelm.runtime.loop.draft import ModelDrafter
    from edgelm.runtime.loop.speculation import PromptLookup
    from edgelm.runtime.sample.logprobs import TokenLogprob


@dataclass(frozen=True)
class Timings:
    """How long a generation took, in seconds of the clock; time the caller spends between chunks is not counted.

    Attributes:
        prompt_tokens: tokens of the prompt.
        cached_tokens: of these, how many were in the KV cache from the last generation.
        completion_tokens: tokens generated, without the one that ends the text.
        ttft_seconds: time to first token: tokenising, prefill and the first sample; None where no token came.
        prefill_seconds: the prompt's forward passes.
        decode_seconds: the tokens after the first.
        drafted_tokens: draft tokens that were checked, and
        accepted_tokens: how many of them were accepted: so many passes were saved.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ttft_seconds: float | None
    prefill_seconds: float
    decode_seconds: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """Tokens of the prompt that were computed, per second; None where the prefill did not come to its end."""
        if self.ttft_seconds is None:
            return None
        return _rate(self.prompt_tokens - self.cached_tokens, self.prefill_seconds)

    @property
    def decode_tokens_per_second(self) -> float | None:
        """(n - 1) tokens per second of `decode_seconds`: the first token belongs to the prefill. None below 2 tokens."""
        return _rate(self.completion_tokens - 1, self.decode_seconds)

    def to_dict(self) -> dict[str, float | int | None]:
        """All of it, rates included, for JSON."""
        return asdict(self) | {
            "prefill_tokens_per_second": self.prefill_tokens_per_second,
            "decode_tokens_per_second": self.decode_tokens_per_second,
        }


@dataclass(frozen=True)
class Usage:
    """Tokens of a request, as services count them.

    Attributes:
        prompt_tokens: of the prompt; of these
        cached_tokens: were in the KV cache.
        completion_tokens: generated.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens

    @classmethod
    def of(cls, timings: Timings) -> Usage:
        """The counts among `timings`."""
        return cls(timings.prompt_tokens, timings.cached_tokens, timings.completion_tokens)

    def to_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self) | {"total_tokens": self.total_tokens}


@dataclass(frozen=True, kw_only=True)
class SchedulerStats:
    """What a loaded model is doing for whom, and what it has done since it was loaded.

    Attributes:
        parallel: requests that run at once, at most.
        running, waiting: requests that do, and that wait for their turn.
        finished, cancelled, failed: requests that came to their end; were left, or ran into their deadline; met an error.
        kv_bytes: of keys and values, those kept for texts that begin alike included.
        prefix_tokens_reused: tokens of prompts that were not computed, as another text had them.
        prefill_tokens: tokens of prompts that were.
        decode_tokens: tokens computed one at a time, and
        decode_passes: in how many passes.
    """

    parallel: int
    running: int
    waiting: int
    finished: int
    cancelled: int
    failed: int
    kv_bytes: int
    prefix_tokens_reused: int
    prefill_tokens: int
    decode_tokens: int
    decode_passes: int

    def to_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Chunk:
    """A piece of a generation. Only the last one has a `finish_reason` and `timings`.

    Attributes:
        text: new text, whole characters; may be empty in the last chunk.
        tokens: ids generated since the last chunk.
        finish_reason: ``stop``, ``length``, ``cancelled`` or ``deadline``.
        timings: what it took.
        logprobs: of `tokens`, where they were asked for.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason | None = None
    timings: Timings | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None

    @property
    def usage(self) -> Usage | None:
        """The tokens of the request; None until the last chunk."""
        return None if self.timings is None else Usage.of(self.timings)


@dataclass(frozen=True)
class Completion:
    """A whole generation; the fields are those of `Chunk`."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    timings: Timings
    logprobs: tuple[TokenLogprob, ...] | None = None

    @property
    def usage(self) -> Usage:
        """The tokens of the request."""
        return Usage.of(self.timings)

    @classmethod
    def join(cls, chunks: Iterable[Chunk]) -> Completion:
        """All chunks of a generation as one."""
        chunks = list(chunks)
        reason, timings = chunks[-1].finish_reason, chunks[-1].timings
        assert reason is not None
        assert timings is not None
        tokens = tuple(token for chunk in chunks for token in chunk.tokens)
        logprobs = None
        if chunks[-1].logprobs is not None:
            logprobs = tuple(record for chunk in chunks for record in chunk.logprobs or ())
        return cls("".join(chunk.text for chunk in chunks), tokens, reason, timings, logprobs)


class Stopwatch:
    """Times the parts of one generation; only the time between `start` and what follows it counts."""

    def __init__(self, prompt_tokens: int, cached_tokens: int, encode_seconds: float) -> None:
        self._prompt, self._cached, self._encode = prompt_tokens, cached_tokens, encode_seconds
        self._tokens, self._started = 0, 0.0
        self._prefill = self._decode = 0.0
        self._ttft: float | None = None

    def start(self) -> None:
        """Work begins, or goes on after the caller had its turn."""
        self._started = time.perf_counter()

    def prefilled(self, done: int, total: int) -> None:
        """A pass of the prefill is done; the `progress` of `generate_step`."""
        self._prefill = time.perf_counter() - self._started

    def token(self) -> None:
        """A token has come."""
        seconds = time.perf_counter() - self._started
        self._tokens += 1
        if self._ttft is None:
            self._ttft = self._encode + seconds
        else:
            self._decode += seconds

    def timings(self, drafter: PromptLookup | ModelDrafter | None = None) -> Timings:
        """The times so far."""
        guesses = (0, 0) if drafter is None else (drafter.drafted, drafter.accepted)
        return Timings(self._prompt, self._cached, self._tokens, self._ttft, self._prefill, self._decode, *guesses)


def _rate(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if tokens > 0 and seconds > 0 else None
