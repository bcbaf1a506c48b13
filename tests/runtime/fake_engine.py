"""An engine without a model: logits that depend on every id so far, so that a wrong cache cannot go unnoticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from edgelm.errors import EdgeLMError, OptionError, PromptError
from edgelm.runtime.kv.prefill import PREFILL_CHUNK, prefill_pieces

VOCAB = 260


def logits_of(ids: Sequence[int], vocab: int = VOCAB) -> np.ndarray:
    """The logits after `ids`, [vocab]: pseudo-random, the same for the same ids."""
    return (np.random.default_rng([len(ids), *ids]).standard_normal(vocab) * 3).astype(np.float32)


class FakeModel:
    """What a `LoadedModel` is to its sequences."""

    def __init__(
        self,
        context: int = 64,
        vocab_size: int = VOCAB,
        logits: Callable[[Sequence[int]], np.ndarray] | None = None,
    ) -> None:
        self.context, self.vocab_size, self.prefill_chunk = context, vocab_size, PREFILL_CHUNK
        self.passes: list[int] = []  # ids per forward pass, of all sequences
        self.closed = 0
        self.before_forward: Callable[[], None] = lambda: None
        self.logits = logits or (lambda ids: logits_of(ids, vocab_size))

    def sequence(self) -> FakeSequence:
        return FakeSequence(self)

    @property
    def kv_bytes(self) -> int:
        return 0

    def close(self) -> None:
        self.closed += 1


class FakeSequence:
    rewinds = True

    def __init__(self, model: FakeModel) -> None:
        self.model, self.context, self.vocab_size = model, model.context, model.vocab_size
        self.ids: list[int] = []
        self.adapter: Any = None
        self._buffer = np.zeros((1, model.vocab_size), np.float32)  # reused, as the contract allows

    @property
    def position(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> list[int]:
        return self.ids

    def adapt(self, adapter: Any) -> None:
        if adapter is not self.adapter:
            self.reset()
            self.adapter = adapter

    def room_after(self, position: int) -> int | None:
        return None

    def forward(self, ids: Sequence[int] | np.ndarray, num_logits: int = 1) -> np.ndarray:
        if self.model.closed:
            raise EdgeLMError("the engine is closed")
        if not len(ids) or not 0 <= num_logits <= len(ids):
            raise OptionError(f"num_logits must be from 0 to the number of ids ({len(ids)}), not {num_logits}")
        if self.position + len(ids) > self.context:
            raise PromptError(f"{self.position + len(ids)} tokens do not fit in the context of {self.context}")
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise PromptError(f"token ids must be from 0 to {self.vocab_size - 1}")
        self.model.before_forward()
        self.model.passes.append(len(ids))
        rows = []
        for count, token in enumerate(ids, 1):
            self.ids.append(int(token))
            if count > len(ids) - num_logits:
                rows.append(self.model.logits(self.ids))
        if not rows:
            return np.empty((0, self.vocab_size), np.float32)
        self._buffer[:1] = rows[0]
        return self._buffer if num_logits == 1 else np.stack(rows)

    def prefill(self, ids: Sequence[int], num_logits: int = 1) -> np.ndarray:
        logits = np.empty((0, self.vocab_size), np.float32)
        for piece, wanted in prefill_pieces(ids, self.model.prefill_chunk, self.rewinds):
            logits = self.forward(piece, min(wanted, num_logits))
        return logits

    def prefill_passes(self, ids: Sequence[int], size: int | None = None) -> Iterator[np.ndarray]:
        for piece, wanted in prefill_pieces(ids, size or self.model.prefill_chunk, self.rewinds):
            yield self.forward(piece, wanted)

    def resume(self, ids: Sequence[int]) -> None:
        """Nothing was compiled."""

    def rewind(self, position: int) -> None:
        if not 0 <= position <= self.position:
            raise OptionError(f"cannot rewind to {position}: the engine holds {self.position} tokens")
        del self.ids[position:]

    def reset(self) -> None:
        self.rewind(0)

    def forget(self, position: int) -> int:
        self.rewind(position)
        return self.position

    @property
    def cache_bytes(self) -> int:
        return len(self.ids)


class FakeEngine(FakeSequence):
    """A sequence that brings its model, as an `Engine` does."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(FakeModel(*args, **options))

    @property
    def passes(self) -> list[int]:
        return self.model.passes

    @property
    def closed(self) -> int:
        return self.model.closed

    def close(self) -> None:
        self.model.close()

    @property
    def before_forward(self) -> Callable[[], None]:
        return self.model.before_forward

    @before_forward.setter
    def before_forward(self, call: Callable[[], None]) -> None:
        self.model.before_forward = call


def greedy(prompt: Sequence[int], count: int, vocab: int = VOCAB) -> list[int]:
    """The reference: `count` greedy tokens, each computed from scratch."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(logits_of(ids, vocab).argmax()))
    return ids[len(prompt) :]


class FakeBatch:
    """What a `Batch` is to a scheduler; a token takes one byte."""

    def __init__(self, model: FakeModel, count: int) -> None:
        self.model, self.sequences = model, [model.sequence() for _ in range(count)]
        self.limit: int | None = None

    def step(self, texts: Sequence[tuple[FakeSequence, int]]) -> list[np.ndarray]:
        assert len({id(sequence) for sequence, _ in texts}) == len(texts)
        return [sequence.forward([token])[0] for sequence, token in texts]

    def copy(self, source: FakeSequence, target: FakeSequence, position: int) -> None:
        target.ids = source.ids[:position]

    def room(self) -> int | None:
        return self.limit

    def needs(self, tokens: int) -> int:
        return tokens

    def drop(self, sequence: FakeSequence) -> None:
        sequence.reset()

    @property
    def kv_bytes(self) -> int:
        return sum(sequence.cache_bytes for sequence in self.sequences)
