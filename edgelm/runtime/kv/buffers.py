"""The memory of keys, values and states: for each layer one buffer, in which texts that share a graph have a row each.

``[rows, heads, capacity, head_dim]``: a row is contiguous, so that a prompt is read straight into its place, and rows side
by side decode in one pass. Capacity is doubled when a row is full; what was never written takes no memory.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgelm.runtime.kv.windows import Window
from edgelm.runtime.ort.session import Values

SMALLEST = 256  # tokens of the first allocation
NUMPY: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}
_ONE = np.array([1], np.int64)
_DROP = getattr(mmap, "MADV_REMOVE", None)  # Linux: pages of a shared mapping, and what is in them, go


@dataclass(frozen=True)
class Layout:
    """What a graph keeps of a text, by the names of its inputs.

    Attributes:
        whole: (heads, head_dim, type) of keys or values of layers that keep the whole context.
        windows: the same, and the window, of layers that keep no more.
        states: shape of one row without its first axis, and type, of what has one size whatever the number of tokens.
    """

    whole: Mapping[str, tuple[int, int, Any]]
    windows: Mapping[str, tuple[int, int, Any, Window]]
    states: Mapping[str, tuple[tuple[int, ...], Any]]

    @classmethod
    def of(cls, session: Any, windows: Mapping[int, Window] | None = None) -> Layout:
        """Of a session's graph; `windows` are those of layers that keep no more, by number."""
        inputs = session.get_inputs()
        past = {i.name: i for i in inputs if i.name.startswith("past_key_values.")}
        fixed = {name for name, i in past.items() if all(isinstance(size, int) for size in i.shape[1:])}
        named = {n: (windows or {}).get(int(n.split(".")[1])) for n in past if n not in fixed}
        kinds = {n: (past[n].shape[1], past[n].shape[3], NUMPY[past[n].type]) for n in named}
        return cls(
            whole={n: kinds[n] for n, window in named.items() if window is None},
            windows={n: (*kinds[n], window) for n, window in named.items() if window is not None},
            states={n: (tuple(i.shape[1:]), NUMPY[i.type]) for n, i in past.items() if n in fixed},
        )

    @staticmethod
    def batches_of(session: Any) -> bool:
        """Whether a session's graph takes several rows."""
        return not any(isinstance(i.shape[0], int) for i in session.get_inputs() if i.name == "input_ids")

    @property
    def names(self) -> list[str]:
        """In the order in which `Buffers` gives the arrays."""
        return [*self.whole, *self.windows, *self.states]

    def whole_arrays(self, length: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and type of each buffer of one row with room for `length` tokens."""
        return {n: ((1, heads, length, size), dtype) for n, (heads, size, dtype) in self.whole.items()}

    def saved_arrays(self, place: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and type of what is kept of states and windows after `place` tokens."""
        windows = {n: ((1, heads, w.held(place), size), dtype) for n, (heads, size, dtype, w) in self.windows.items()}
        return windows | {n: ((1, *shape), dtype) for n, (shape, dtype) in self.states.items()}

    @property
    def token_bytes(self) -> int:
        """Of a token, in layers that keep the whole context."""
        return sum(heads * size * np.dtype(dtype).itemsize for heads, size, dtype in self.whole.values())


class Bound:
    """What a pass of one token for each of some rows reads and writes: bound once, and changed in place.

    The mask is as long as the capacity, so that its shape stays: the operator takes the number of tokens from the sum of
    the mask.

    Attributes:
        logits: float32 [rows, 1, vocab] of the last pass.
    """

    def __init__(self, kept: list[np.ndarray], states: Sequence[list[np.ndarray]], capacity: int, vocab: int) -> None:
        rows = len((*kept, *states[0])[0])
        self._token, self._mask = np.zeros((rows, 1), np.int64), np.zeros((rows, capacity), np.int64)
        self.logits = np.zeros((rows, 1, vocab), np.float32)
        self._seen = [0] * rows  # how many ones each row of the mask begins with
        inputs, outputs = [self._token, self._mask, _ONE, *kept], [self.logits, *kept]
        self._values = [
            (Values([*inputs, *read]), Values([*outputs, *write])) for read, write in (states, states[::-1])
        ]

    def at(self, tokens: Sequence[int], positions: Sequence[int], turn: int) -> tuple[Values, Values]:
        """Feeds and fetches of a pass over `tokens`, which stand at `positions`; states are read from buffer `turn`."""
        for row, (token, position) in enumerate(zip(tokens, positions, strict=True)):
            self._token[row, 0] = token
            if self._seen[row] == position:
                self._mask[row, position] = 1
            else:
                self._mask[row, : position + 1] = 1
                self._mask[row, position + 1 :] = 0
            self._seen[row] = position + 1
        return self._values[turn]


class Buffers:
    """The buffers of some rows.

    Args:
        layout: of the graph.
        vocab: how many logits a token has.
        rows: how many texts there is room for.

    Attributes:
        capacity: tokens that a row has room for in layers that keep the whole context.
        used: how many of them each row uses, by its number.
        touched: the most of them it ever used since its memory was dropped.
    """

    def __init__(self, layout: Layout, vocab: int, rows: int = 1) -> None:
        self.layout, self.rows, self.capacity = layout, rows, 0
        self.used, self.touched = [0] * rows, [0] * rows
        self.whole: list[np.ndarray] = []
        self.windows = [
            mapped((rows, heads, window.capacity, size), dtype)
            for heads, size, dtype, window in layout.windows.values()
        ]
        # A state is read from one buffer and written to the other.
        self.states = tuple([np.zeros((rows, *s), dtype) for s, dtype in layout.states.values()] for _ in range(2))
        self._vocab = vocab
        self._bound: dict[tuple[int, int], Bound] = {}

    def grow(self, capacity: int) -> None:
        """Exchange the buffers for larger ones."""
        old, self.whole = self.whole, []
        self._bound.clear()  # what is bound holds the old buffers too
        for index, (heads, size, dtype) in enumerate(self.layout.whole.values()):
            buffer = mapped((self.rows, heads, capacity, size), dtype)
            if old:
                for row, used in enumerate(self.used):
                    buffer[row, :, :used] = old[index][row, :, :used]
                old[index] = _ONE  # free the old one before the next is made
            self.whole.append(buffer)
        self.capacity = capacity

    def take(self, arrays: list[np.ndarray], capacity: int) -> None:
        """Of one row alone: these arrays become the buffers, as they are."""
        assert self.rows == 1
        self._bound.clear()
        self.whole, self.capacity = arrays, capacity

    def kept(self, first: int, count: int = 1) -> list[np.ndarray]:
        """Keys and values of `count` rows from `first` on, read and written in place."""
        return [buffer[first : first + count] for buffer in (*self.whole, *self.windows)]

    def states_of(self, turn: int, first: int, count: int = 1) -> list[np.ndarray]:
        """Their states in buffer `turn`."""
        return [state[first : first + count] for state in self.states[turn]]

    def bound(self, first: int, count: int = 1) -> Bound:
        """For passes of one token for each of them."""
        if (first, count) not in self._bound:
            states = [self.states_of(turn, first, count) for turn in range(2)]
            self._bound[first, count] = Bound(self.kept(first, count), states, self.capacity, self._vocab)
        return self._bound[first, count]

    def note(self, row: int, used: int) -> None:
        """A row holds so many tokens now."""
        self.used[row] = used
        self.touched[row] = max(used, self.touched[row])

    def exchange(self, a: int, b: int) -> None:
        """Rows `a` and `b` change places."""
        used = max(self.used[a], self.used[b])
        for buffer in (*self.whole, *self.windows):
            part = buffer[:, :, :used]  # of a window all, where it is shorter
            part[[a, b]] = part[[b, a]]
        for state in (*self.states[0], *self.states[1]):
            state[[a, b]] = state[[b, a]]
        self.used[a], self.used[b] = self.used[b], self.used[a]
        self.touched[a] = self.touched[b] = max(self.touched[a], self.touched[b], used)

    def drop(self, row: int) -> None:
        """Give back the memory of a row's keys and values, which are not needed any more."""
        self.used[row] = 0
        if _DROP is None or self.rows == 1:
            return
        for buffer in self.whole:
            size = buffer[row].nbytes
            start = -(-row * size // mmap.PAGESIZE) * mmap.PAGESIZE
            length = ((row + 1) * size - start) // mmap.PAGESIZE * mmap.PAGESIZE
            if length > 0:
                _mapping(buffer).madvise(_DROP, start, length)
        self.touched[row] = 0


def same_arrays(found: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[tuple[int, ...], Any]]) -> bool:
    """Whether these are arrays of these names, shapes and types."""
    return {name: (array.shape, array.dtype) for name, array in found.items()} == {
        name: (shape, np.dtype(dtype)) for name, (shape, dtype) in wanted.items()
    }


def mapped(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros in a mapping of their own: pages are taken when they are written, and given back when it goes.

    The heap would keep the holes that buffers leave behind when they are exchanged for larger ones.
    """
    count = math.prod(shape)
    return np.frombuffer(mmap.mmap(-1, count * np.dtype(dtype).itemsize), dtype, count).reshape(shape)


def _mapping(buffer: np.ndarray) -> mmap.mmap:
    """The mapping under an array that `mapped` made."""
    base: Any = buffer
    while isinstance(base, np.ndarray):
        base = base.base
    found = base.obj if isinstance(base, memoryview) else base
    assert isinstance(found, mmap.mmap)
    return found
