"""The keys and values of the tokens so far, and the buffers a step reads and writes.

Two kinds, told apart by the manifest. *Shared*: past and present are one buffer with room to spare, and a
step writes into it in place. *Growing*: a step returns a longer copy, as graphs traced from transformers do.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from edgelm.runtime.ort import Runner, Values, ort

_SMALLEST = 256  # tokens of the first allocation
_NUMPY = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_ONE = np.array([1], np.int64)


class Cache(Protocol):
    """What the Engine asks of a cache."""

    def run(self, ids: np.ndarray, position: int, num_logits: int) -> np.ndarray:
        """One step: int64 ids [n] at `position` → float32 logits [num_logits, vocab], valid until the next step."""

    def truncate(self, position: int) -> None:
        """Forget the tokens from `position` on."""

    @property
    def nbytes(self) -> int:
        """Bytes held for keys and values."""


class SharedCache:
    """One buffer for past and present of each layer, doubled when it is full, up to the context."""

    def __init__(self, session: Any, context: int, vocab: int) -> None:
        self._context = context
        self._vocab = vocab
        self._past = {
            i.name: (i.shape[1], i.shape[3], _NUMPY[i.type]) for i in session.get_inputs() if i.name.startswith("past_")
        }
        self._inputs = ["input_ids", "attention_mask", "num_logits", *self._past]
        self._runner = Runner(session, ["logits", *(n.replace("past_key_values", "present") for n in self._past)])
        self._capacity = 0
        self._buffers: list[np.ndarray] = []
        self._token = np.zeros((1, 1), np.int64)
        self._logits = np.zeros((1, 1, vocab), np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes held for keys and values."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def run(self, ids: np.ndarray, position: int, num_logits: int) -> np.ndarray:
        """One step, in place."""
        total = position + len(ids)
        if total > self._capacity:
            self._grow(total, position)
        if len(ids) == 1 and num_logits == 1:
            return self._decode(int(ids[0]), position)
        mask = np.ones((1, total), np.int64)
        feeds = Values(
            [np.ascontiguousarray(ids).reshape(1, -1), mask, np.array([num_logits], np.int64), *self._buffers]
        )
        logits = self._runner.run_first(self._inputs, feeds, Values(self._buffers))
        self._seen = -1
        result: np.ndarray = logits[0]
        return result

    def truncate(self, position: int) -> None:
        """Nothing to do: tokens beyond the mask are not seen, and will be written over."""

    def _decode(self, token: int, position: int) -> np.ndarray:
        """A step of one token, everything bound once and changed in place.

        The mask is as long as the capacity, so that its shape stays: the operator takes the number of tokens
        from the sum of the mask.
        """
        self._token[0, 0] = token
        if self._seen == position:
            self._mask[0, position] = 1
        else:
            self._mask[0, : position + 1] = 1
            self._mask[0, position + 1 :] = 0
        self._seen = position + 1
        self._runner.run(self._inputs, self._feeds, self._fetches)
        result: np.ndarray = self._logits[0]
        return result

    def _grow(self, needed: int, used: int) -> None:
        capacity = max(self._capacity, _SMALLEST)
        while capacity < needed:
            capacity *= 2
        capacity = min(capacity, self._context)
        old = self._buffers
        self._buffers = []
        for index, (heads, size, dtype) in enumerate(self._past.values()):
            buffer = np.zeros((1, heads, capacity, size), dtype)
            if old:
                buffer[:, :, :used] = old[index][:, :, :used]
                old[index] = _ONE  # let the old one go before the next is made
            self._buffers.append(buffer)
        self._capacity = capacity
        self._mask = np.zeros((1, capacity), np.int64)
        self._seen = -1  # how many ones the mask holds; -1 when that is not known
        self._feeds = Values([self._token, self._mask, _ONE, *self._buffers])
        self._fetches = Values([self._logits, *self._buffers])


class GrowingCache:
    """Every step takes the past as it is and returns it longer."""

    def __init__(self, session: Any, vocab: int) -> None:
        inputs = {i.name: i for i in session.get_inputs()}
        self._session = session
        self._vocab = vocab
        self._past = [i for name, i in inputs.items() if name.startswith("past_")]
        self._positions = "position_ids" in inputs
        self._mask = "attention_mask" in inputs
        self._outputs = ["logits", *(i.name.replace("past_key_values", "present") for i in self._past)]
        self._values = self._empty()

    @property
    def nbytes(self) -> int:
        """Bytes held for keys and values."""
        return sum(int(value.tensor_size_in_bytes()) for value in self._values)

    def run(self, ids: np.ndarray, position: int, num_logits: int) -> np.ndarray:
        """One step; the past is exchanged for the longer one."""
        total = position + len(ids)
        feeds = {"input_ids": ids.reshape(1, -1), "num_logits": np.array([num_logits], np.int64)}
        if self._mask:
            feeds["attention_mask"] = np.ones((1, total), np.int64)
        if self._positions:
            feeds["position_ids"] = np.arange(position, total, dtype=np.int64).reshape(1, -1)
        values = {name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for name, array in feeds.items()}
        values |= {i.name: value for i, value in zip(self._past, self._values, strict=True)}
        logits, *self._values = self._session.run_with_ort_values(self._outputs, values)
        result: np.ndarray = logits.numpy()[0]
        return result

    def truncate(self, position: int) -> None:
        """Cut the past after `position` tokens."""
        if position == 0:
            self._values = self._empty()
        else:
            cut = (np.ascontiguousarray(value.numpy()[:, :, :position]) for value in self._values)
            self._values = [ort.OrtValue.ortvalue_from_numpy(array) for array in cut]

    def _empty(self) -> list[Any]:
        shapes = [(1, i.shape[1], 0, i.shape[3]) for i in self._past]
        return [
            ort.OrtValue.ortvalue_from_numpy(np.zeros(s, _NUMPY[i.type]))
            for s, i in zip(shapes, self._past, strict=True)
        ]
