"""How likely the model held each token, and which others it held likely."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgelm.bundle.json_table import shown
from edgelm.errors import OptionError
from edgelm.runtime.sample.sampling import Floats, Sampler, top_k
from edgelm.runtime.text.tokenizer import Tokenizer

MOST = 100  # alternatives


@dataclass(frozen=True)
class Alternative:
    """A token that might have come.

    Attributes:
        token: its id.
        text: its text; U+FFFD where it is but a part of a character.
        logprob: natural logarithm of its probability, by the model's own distribution: at temperature 1, before
            penalties, biases, top-k, top-p, min-p and any grammar.
    """

    token: int
    text: str
    logprob: float


@dataclass(frozen=True)
class TokenLogprob(Alternative):
    """A token that came.

    Attributes:
        top: the most likely tokens at its place, most likely first.
    """

    top: tuple[Alternative, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        top = [{"token": t.token, "text": t.text, "logprob": t.logprob} for t in self.top]
        return {"token": self.token, "text": self.text, "logprob": self.logprob, "top": top}


def wanted(logprobs: object, top_logprobs: object) -> int | None:
    """How many alternatives are wanted for every token; None for no log-probabilities at all.

    Raises:
        OptionError: not a bool, or not a number from 0 to `MOST`.
    """
    if logprobs is not None and not isinstance(logprobs, bool):
        raise OptionError(f"logprobs must be True or False, not {shown(logprobs)}")
    if top_logprobs is None:
        return 0 if logprobs else None
    return None if logprobs is False else expect_top("top_logprobs", top_logprobs)


def expect_top(name: str, count: object) -> int:
    """How many alternatives; OptionError where that is no number from 0 to `MOST`."""
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MOST:
        raise OptionError(f"{name} must be an integer from 0 to {MOST}, not {shown(count)}")
    return count


def recording(sampler: Sampler, tokenizer: Tokenizer, count: int, record: Callable[[TokenLogprob], None]) -> Sampler:
    """A sampler that hands a record of every token it chooses to `record`."""

    def choose(logits: Floats, history: Sequence[int]) -> int:
        token = sampler(logits, history)
        record(describe(logits, token, tokenizer, count))
        return token

    return choose


def describe(logits: Floats, token: int, tokenizer: Tokenizer, count: int) -> TokenLogprob:
    """The record of a token, and of the `count` most likely ones, by the logits [V] at its place."""

    def alternative(index: int) -> tuple[int, str, float]:
        return index, tokenizer.decode([index], skip_special=False), float(logits[index] - total)

    peak = float(logits.max())
    total = peak + float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))
    best = top_k(logits, count) if count else np.zeros(0, np.intp)
    best = best[np.argsort(-logits[best], kind="stable")][:count]
    return TokenLogprob(*alternative(token), tuple(Alternative(*alternative(int(index))) for index in best))
