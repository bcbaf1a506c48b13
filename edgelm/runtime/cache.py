"""The keys and values of the tokens so far, and the buffers a step reads and writes.

Two kinds, told apart by the manifest. *Shared*: past and present are one buffer with room to spare, and a
step writes into it in place. *Growing*: a step returns a longer copy, as graphs traced from transformers do.
"""

from __future__ import annotations

import math
import mmap
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
        """Forget the tokens from `position` on; without `rewinds`, `position` is 0."""

    @property
    def rewinds(self) -> bool:
        """Whether `truncate` goes anywhere, or to the start alone."""

    @property
    def nbytes(self) -> int:
        """Bytes held for keys and values."""


class SharedCache:
    """One buffer for past and present of each layer, doubled when it is full, up to the context.

    A layer may keep states instead, of one size whatever the number of tokens (a convolution's last inputs, the matrix
    of linear attention): inputs without an axis that grows. A state is read from one buffer and written to another, which then change places; it is no record of the past.
    """

    def __init__(self, session: Any, context: int, vocab: int) -> None:
        inputs = session.get_inputs()
        self._context = context
        past = {i.name: i for i in inputs if i.name.startswith("past_key_values.")}
        fixed = {name for name, i in past.items() if all(isinstance(size, int) for size in i.shape)}
        self._past = {n: (i.shape[1], i.shape[3], _NUMPY[i.type]) for n, i in past.items() if n not in fixed}
        states = {n: np.zeros(i.shape, _NUMPY[i.type]) for n, i in past.items() if n in fixed}
        self._states = (list(states.values()), [np.zeros_like(state) for state in states.values()])
        self._turn = 0  # which of both is read
        names = [*self._past, *states]
        self._inputs = ["input_ids", "attention_mask", "num_logits", *names]
        presents = [n.replace("past_key_values", "present") for n in names]
        self._runner = Runner(session, ["logits", *presents])
        self._capacity = 0
        self._buffers: list[np.ndarray] = []
        self._token = np.zeros((1, 1), np.int64)
        self._logits = np.zeros((1, 1, vocab), np.float32)

    @property
    def rewinds(self) -> bool:
        """Whether `truncate` goes anywhere; a state goes back to the start alone."""
        return not self._states[0]

    @property
    def nbytes(self) -> int:
        """Bytes held for keys, values and states."""
        return sum(array.nbytes for array in (*self._buffers, *self._states[0], *self._states[1]))

    def run(self, ids: np.ndarray, position: int, num_logits: int) -> np.ndarray:
        """One step, in place."""
        total = position + len(ids)
        if total > self._capacity:
            self._grow(total, position)
        read, write = self._states[self._turn], self._states[1 - self._turn]
        if len(ids) == 1 and num_logits == 1:
            logits = self._decode(int(ids[0]), position)
        else:
            mask, wanted = np.ones((1, total), np.int64), np.array([num_logits], np.int64)
            feeds = Values([np.ascontiguousarray(ids).reshape(1, -1), mask, wanted, *self._buffers, *read])
            logits = self._runner.run_first(self._inputs, feeds, Values([*self._buffers, *write]))
            self._seen = -1
        self._turn = 1 - self._turn
        result: np.ndarray = logits[0]
        return result

    def truncate(self, position: int) -> None:
        """Keys and values beyond the mask are not seen, and will be written over; states start anew."""
        for state in self._states[self._turn]:
            state.fill(0)

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
        self._runner.run(self._inputs, *self._bound[self._turn])
        return self._logits

    def _grow(self, needed: int, used: int) -> None:
        capacity = max(self._capacity, _SMALLEST)
        while capacity < needed:
            capacity *= 2
        capacity = min(capacity, self._context)
        old = self._buffers
        self._buffers, self._bound = [], []  # what is bound holds the old buffers too
        for index, (heads, size, dtype) in enumerate(self._past.values()):
            buffer = _mapped((1, heads, capacity, size), dtype)
            if old:
                buffer[:, :, :used] = old[index][:, :, :used]
                old[index] = _ONE  # let the old one go before the next is made
            self._buffers.append(buffer)
        self._capacity = capacity
        self._mask = np.zeros((1, capacity), np.int64)
        self._seen = -1  # how many ones the mask holds; -1 when that is not known
        inputs, outputs = [self._token, self._mask, _ONE, *self._buffers], [self._logits, *self._buffers]
        turns = (self._states, self._states[::-1])
        self._bound = [(Values([*inputs, *read]), Values([*outputs, *write])) for read, write in turns]


def _mapped(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros in a mapping of their own: pages are taken when they are written, and given back when it goes.

    The heap would keep the holes that buffers leave behind when they are exchanged for larger ones.
    """
    count = math.prod(shape)
    return np.frombuffer(mmap.mmap(-1, count * np.dtype(dtype).itemsize), dtype, count).reshape(shape)


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
    def rewinds(self) -> bool:
        """Always."""
        return True

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
