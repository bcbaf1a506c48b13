"""An engine without a model: logits that depend on every id so far, so that a wrong cache cannot go unnoticed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgelm.errors import PromptError

VOCAB = 260


def logits_of(ids: Sequence[int], vocab: int = VOCAB) -> np.ndarray:
    """The logits after `ids`, [vocab]: pseudo-random, the same for the same ids."""
    return (np.random.default_rng([len(ids), *ids]).standard_normal(vocab) * 3).astype(np.float32)


class FakeEngine:
    def __init__(
        self,
        context: int = 64,
        vocab_size: int = VOCAB,
        logits: Callable[[Sequence[int]], np.ndarray] | None = None,
    ) -> None:
        self.context, self.vocab_size = context, vocab_size
        self.ids: list[int] = []
        self.passes: list[int] = []  # ids per forward pass
        self.closed = 0
        self.before_forward: Callable[[], None] = lambda: None
        self._logits = logits or (lambda ids: logits_of(ids, vocab_size))
        self._buffer = np.zeros((1, vocab_size), np.float32)  # reused, as the contract allows

    @property
    def position(self) -> int:
        return len(self.ids)

    rewinds = True
    adapter = None

    def adapt(self, adapter: object) -> None:
        assert adapter is None

    def room_after(self, position: int) -> int | None:
        return None

    @property
    def tokens(self) -> list[int]:
        return self.ids

    def forward(self, ids: Sequence[int] | np.ndarray, num_logits: int = 1) -> np.ndarray:
        assert not self.closed
        assert 0 <= num_logits <= len(ids)
        if self.position + len(ids) > self.context:
            raise PromptError("the context is full")
        self.before_forward()
        self.passes.append(len(ids))
        rows = []
        for count, token in enumerate(ids, 1):
            self.ids.append(int(token))
            if count > len(ids) - num_logits:
                rows.append(self._logits(self.ids))
        if not rows:
            return np.empty((0, self._buffer.shape[1]), np.float32)
        self._buffer[:1] = rows[0]
        return self._buffer if num_logits == 1 else np.stack(rows)

    def rewind(self, position: int) -> None:
        assert 0 <= position <= self.position
        del self.ids[position:]

    def reset(self) -> None:
        self.rewind(0)

    def close(self) -> None:
        self.closed += 1


def greedy(prompt: Sequence[int], count: int, vocab: int = VOCAB) -> list[int]:
    """The reference: `count` greedy tokens, each computed from scratch."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(logits_of(ids, vocab).argmax()))
    return ids[len(prompt) :]
