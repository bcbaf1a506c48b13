"""What changes logits before a token is chosen: penalties for tokens that were there, and biases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelm.runtime.sample.config import GenerationConfig

Floats = npt.NDArray[np.floating[Any]]
Adjust = Callable[[Floats, Sequence[int]], Floats]
"""``adjust(logits [V], history) -> scores [V]``; the logits are left as they are."""


def make_adjustment(config: GenerationConfig, prompt_tokens: int) -> Adjust:
    """All that `config` asks for: the model's own biases, repetition penalty, its other rules, then OpenAI's two penalties, then biases.

    It serves one sequence, since it remembers what it has counted.

    Args:
        config: the options.
        prompt_tokens: how many tokens of the history are the prompt, which only the repetition penalty looks at.
    """
    steps: list[Callable[[Floats, Sequence[int]], None]] = [config.rules.bias] if config.rules.biases else []
    if config.repetition_penalty != 1:
        steps.append(_repetition(config.repetition_penalty))
    if config.rules:
        rules, longest = config.rules, config.max_tokens
        steps.append(lambda scores, history: rules.apply(scores, history, prompt_tokens, longest))
    if config.frequency_penalty or config.presence_penalty:
        steps.append(_frequency(config.frequency_penalty, config.presence_penalty, prompt_tokens))
    if config.logit_bias:
        steps.append(_bias(config.logit_bias))

    def adjust(logits: Floats, history: Sequence[int]) -> Floats:
        scores = logits.copy() if steps else logits
        for step in steps:
            step(scores, history)
        return scores

    return adjust


def _repetition(penalty: float) -> Callable[[Floats, Sequence[int]], None]:
    """Divide positive logits of tokens already seen by `penalty`, multiply negative ones (CTRL, arXiv:1909.05858)."""
    counts = _Counts(0)

    def apply(scores: Floats, history: Sequence[int]) -> None:
        ids, _ = counts.of(history, scores.size)
        old = scores[ids]
        with np.errstate(over="ignore"):
            scores[ids] = np.where(old < 0, old * penalty, old / penalty)

    return apply


def _frequency(frequency: float, presence: float, prompt_tokens: int) -> Callable[[Floats, Sequence[int]], None]:
    """Subtract ``frequency * times + presence`` from logits of tokens generated so far, as OpenAI's API defines it."""
    counts = _Counts(prompt_tokens)

    def apply(scores: Floats, history: Sequence[int]) -> None:
        ids, times = counts.of(history, scores.size)
        with np.errstate(over="ignore"):
            scores[ids] -= (frequency * times + presence).astype(scores.dtype)

    return apply


def _bias(biases: Sequence[tuple[int, float]]) -> Callable[[Floats, Sequence[int]], None]:
    """Add to the logits of single tokens."""
    ids = np.array([token for token, _ in biases], np.intp)
    values = np.array([value for _, value in biases])

    def apply(scores: Floats, history: Sequence[int]) -> None:
        with np.errstate(over="ignore"):
            scores[ids] += values.astype(scores.dtype)

    return apply


class _Counts:
    """How often each token stands in a history from `start` on; counts only what is new in a history that has grown."""

    def __init__(self, start: int) -> None:
        self._start = self._done = start
        self._last = -1
        self._counts: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def of(self, history: Sequence[int], vocab: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
        """Ids [n] that stand there, ascending, and how often [n]."""
        done = self._done
        grown = len(history) >= done and (done == self._start or history[done - 1] == self._last)
        if self._counts.size != vocab or not grown:  # another sequence than last time
            self._counts, self._done = np.zeros(vocab, np.int64), self._start
        np.add.at(self._counts, np.asarray(history[self._done :], np.intp), 1)
        self._done, self._last = max(len(history), self._start), history[-1] if len(history) else -1
        ids = np.flatnonzero(self._counts)
        return ids, self._counts[ids]
