"""The keys and values of the tokens so far, and the buffers a step reads and writes.

Two kinds, told apart by the manifest. *Shared*, here: past and present are one buffer with room to spare, and a
step writes into it in place. *Concatenated*, in `concat_cache`: a step returns a longer copy, as graphs traced from
transformers do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from edgelm.runtime.kv.buffers import SMALLEST, Buffers, Layout, same_arrays
from edgelm.runtime.kv.windows import Window, state_copies, window_copies
from edgelm.runtime.ort.session import Runner, Values

PROMPT_PASS = 32  # tokens from which a pass is a prompt's; fewer are draft tokens, which decode checks


@dataclass(frozen=True)
class KVSnapshot:
    """What a number of tokens left in a cache.

    Attributes:
        position: the number of tokens.
        layers: name → keys or values [1, heads, n, head_dim], n >= `position`; what is beyond it has no meaning.
        states: place → name → the state after the tokens before that place, or the window of keys or values
            [1, heads, n, head_dim] before it; empty for models without either.
    """

    position: int
    layers: Mapping[str, np.ndarray]
    states: Mapping[int, Mapping[str, np.ndarray]] = field(default_factory=dict)


class Cache(Protocol):
    """What the Engine asks of a cache."""

    def run(self, ids: np.ndarray, position: int, num_logits: int) -> np.ndarray:
        """One step: int64 ids [n] at `position` → float32 logits [num_logits, vocab], valid until the next step."""

    def fill(self, ids: np.ndarray, position: int) -> None:
        """A step whose logits nobody wants, where `fills` says so."""

    @property
    def fills(self) -> bool:
        """Whether there is a graph for `fill`."""

    def truncate(self, position: int) -> int:
        """Forget the tokens from `position` on.

        Returns:
            how many tokens are left: `position`, or fewer where the state of that place was not saved.
        """

    @property
    def rewinds(self) -> bool:
        """Whether `truncate` always goes to the place it is asked for."""

    def room(self, position: int) -> int | None:
        """How many tokens after `position` can be read and then forgotten at no cost; None for any number."""

    @property
    def nbytes(self) -> int:
        """Bytes held for keys and values."""

    def needs(self, tokens: int) -> int:
        """Bytes it would hold with so many tokens."""

    def feed(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Feed these inputs of the graph in every step from now on, in place of those told before."""

    def keep(self, position: int) -> None:
        """See to it that `save` and `truncate` can go to `position`, where the cache is now."""

    def save(self, position: int) -> KVSnapshot:
        """What the first `position` tokens left, or fewer where the state of that place was not saved."""

    def takes(self, snapshot: KVSnapshot) -> bool:
        """Whether `load` can be called so: the arrays are those that `save` of such a cache gives."""

    def load(self, snapshot: KVSnapshot) -> None:
        """Take over what `save` gave, in place of all that is held; arrays may be used as they are."""


class SharedCache:
    """One buffer for past and present of each layer, doubled when it is full, up to the context.

    A layer may keep states instead, of one size whatever the number of tokens (a convolution's last inputs, the matrix
    of linear attention): inputs without an axis that grows. A state is read from one buffer and written to another,
    which then change places; it is no record of the past. So the states after each pass of several tokens are saved,
    the last few of them: to go back means to begin from there. Layers that keep a window alone have a buffer of its size,
    and what fell out of it is evicted: going back further than that is the same.

    Attributes:
        row: its row of the buffers; another one when rows change places.
        turn: which of both buffers holds its states.
    """

    def __init__(
        self,
        session: Any,
        context: int,
        vocab: int,
        prompts: Any = None,
        windows: Mapping[int, Window] | None = None,
        *,
        place: tuple[Buffers, int] | None = None,
    ) -> None:
        """`session` runs every pass, but those of prompts where there is another session for them, of the same graph or of
        one without logits; `windows` are those of layers that keep no more, by number; `place` is a row of buffers that
        others share, or None for buffers of its own.
        """
        self._context = context
        self._buffers, self.row = place or (Buffers(Layout.of(session, windows), vocab), 0)
        self._alone = place is None
        layout = self._buffers.layout
        self._windows = {name: kind[-1] for name, kind in layout.windows.items()}
        self._kinds = set(self._windows.values())
        size = sum(buffer.nbytes for buffer in self._rows_of(self._buffers.windows))
        self._copies = window_copies(size, max((w.capacity for w in self._kinds), default=1), context)
        self._reached = 0  # tokens whose keys and values went through the windows
        self._touched = 0  # the most of them ever: pages beyond were never taken
        self._state_names = list(layout.states)
        self._saved_names = [*layout.states, *self._windows]
        self._saved: dict[int, list[np.ndarray]] = {}  # states and windows after that many tokens
        self.turn = 0
        self._inputs = ["input_ids", "attention_mask", "num_logits", *layout.names]
        presents = [n.replace("past_key_values", "present") for n in layout.names]
        result = session.get_outputs()[0].name  # logits, or hidden states: whatever it is, float32 [1, n, vocab]
        self._runner = self._prompts = Runner(session, [result, *presents])
        self._filler: Runner | None = None
        if prompts is not None and any(output.name == result for output in prompts.get_outputs()):
            self._prompts = Runner(prompts, [result, *presents])
        elif prompts is not None:
            self._filler = Runner(prompts, presents)

    @property
    def rewinds(self) -> bool:
        """Whether `truncate` goes anywhere; states and windows go back to places that were saved."""
        return not self._saved_names

    def room(self, position: int) -> int | None:
        """Until the first window evicts a token; none at all with states."""
        if self._state_names:
            return 0
        return min((window.room(position) for window in self._kinds), default=None)

    @property
    def nbytes(self) -> int:
        """Bytes held for keys, values and states; of buffers that others share, those of its row that were written to."""
        tokens = self._buffers.capacity if self._alone else self._buffers.touched[self.row]
        return self._whole_bytes(tokens) + self._state_bytes() + self._window_bytes(self._touched) + self._saved_bytes()

    def run(self, ids: np.ndarray, position: int, num_logits: int) -> np.ndarray:
        """One step, in place."""
        self.begin(len(ids), position)
        if len(ids) == 1 and num_logits == 1:
            bound = self._buffers.bound(self.row)
            self._runner.run(self._inputs, *bound.at([int(ids[0])], [position], self.turn))
            logits = bound.logits
        else:
            token_ids, mask, read, write = self._pass(ids, position)
            feeds = Values([token_ids, mask, np.array([num_logits], np.int64), *read])
            prompt = len(ids) >= PROMPT_PASS
            runner = self._prompts if prompt else self._runner
            logits = runner.run_first(self._inputs, feeds, Values(write), prompt=prompt)
        self.end(len(ids), position)
        result: np.ndarray = logits[0]
        return result

    def fill(self, ids: np.ndarray, position: int) -> None:
        """One step of the prompts' graph, in place."""
        assert self._filler is not None
        self.begin(len(ids), position)
        token_ids, mask, read, write = self._pass(ids, position)
        names = [name for name in self._inputs if name != "num_logits"]
        self._filler.run(names, Values([token_ids, mask, *read]), Values(write), prompt=True)
        self.end(len(ids), position)

    @property
    def fills(self) -> bool:
        """With a graph for prefill that has no logits."""
        return self._filler is not None

    def begin(self, count: int, position: int) -> None:
        """Make room for a step of `count` tokens."""
        total = position + count
        if total > self._buffers.capacity:
            self._buffers.note(self.row, position)
            self._buffers.grow(self._room(total))
        if position and self._evicts(position, total):
            self._save_place(position)
        self._reached = -1

    def _pass(
        self, ids: np.ndarray, position: int
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], list[np.ndarray]]:
        """Of a step of several tokens: ids, mask, what is read of the cache, what is written."""
        kept, buffers = self._buffers.kept(self.row), self._buffers
        mask = np.ones((1, position + len(ids)), np.int64)
        read, write = ([*kept, *buffers.states_of(turn, self.row)] for turn in (self.turn, 1 - self.turn))
        return np.ascontiguousarray(ids).reshape(1, -1), mask, read, write

    def end(self, count: int, position: int) -> None:
        """A step of `count` tokens is done."""
        total = position + count
        self.turn = 1 - self.turn
        self._reached, self._touched = total, max(total, self._touched)
        self._buffers.note(self.row, total)
        if self._state_names and count > 1:
            self._save_place(total)

    def change_turn(self) -> None:
        """Bring the states into the other buffer."""
        for old, new in zip(
            *(self._buffers.states_of(turn, self.row) for turn in (self.turn, 1 - self.turn)), strict=True
        ):
            new[...] = old
        self.turn = 1 - self.turn

    def feed(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Beside what a step reads anyway."""
        for runner in {self._runner, self._prompts, self._filler}:
            if runner is not None:
                runner.always(arrays)

    def truncate(self, position: int) -> int:
        """Keys and values beyond the mask are not seen, and will be written over; states begin at a saved place, and
        so do windows that have evicted what would be seen there.
        """
        if self.rewinds:
            self._buffers.note(self.row, position)
            return position
        held = self._windows_hold(self._reached, position)
        usable = [place for place in self._saved if place <= position or self._windows_hold(place, position)]
        place = position if held else max(usable, default=0)
        kept = self._saved.get(place, [])
        self._saved = {place: arrays for place, arrays in self._saved.items() if place <= position}
        if not held:
            for index, state in enumerate(self._buffers.states_of(self.turn, self.row)):
                state[...] = kept[index] if place else 0
            for buffer, rows in zip(self._rows_of(self._buffers.windows), kept[len(self._state_names) :], strict=False):
                buffer[:, :, : rows.shape[2]] = rows
        self._reached = min(place, position)
        self._buffers.note(self.row, self._reached)
        return self._reached

    def save(self, position: int) -> KVSnapshot:
        """Views of the buffers, and copies of states and windows."""
        states = {place: arrays for place, arrays in self._saved.items() if place <= position}
        if self._windows_hold(self._reached, position):
            states = {position: self._copy(position)}
        place = position if self.rewinds else max(states, default=0)
        named = {place: dict(zip(self._saved_names, arrays, strict=True)) for place, arrays in states.items()}
        whole = zip(self._buffers.layout.whole, self._rows_of(self._buffers.whole), strict=False)
        return KVSnapshot(place, {n: buffer[:, :, :place] for n, buffer in whole}, named)

    def keep(self, position: int) -> None:
        """Keep the states after all `position` tokens, so that `save` and `truncate` find them."""
        if self._state_names and position:
            self._save_place(position)

    def takes(self, snapshot: KVSnapshot) -> bool:
        """Buffers of one length, and states and windows of the last place, which is where a text goes on."""
        layout, end = self._buffers.layout, snapshot.position
        lengths = {array.shape[2] for array in snapshot.layers.values() if array.ndim == 4}
        length = next(iter(lengths), end)
        if len(lengths) > 1 or length < end or not same_arrays(snapshot.layers, layout.whole_arrays(length)):
            return False
        if self.rewinds:
            return not snapshot.states
        return max(snapshot.states, default=-1) == end and all(
            same_arrays(arrays, layout.saved_arrays(place)) for place, arrays in snapshot.states.items()
        )

    def load(self, snapshot: KVSnapshot) -> None:
        """The arrays become the buffers, as they are; of buffers that others share, the row is written."""
        self._saved = {
            place: [states[n].copy() for n in self._saved_names] for place, states in snapshot.states.items()
        }
        self._reached = -1  # what the windows hold is of another text
        self._touched = max(self._touched, snapshot.position)
        arrays = [snapshot.layers[name] for name in self._buffers.layout.whole]
        if self._alone:
            self._buffers.take(arrays, min((array.shape[2] for array in arrays), default=self._context))
        else:
            self._write(arrays, snapshot.position)
        self.truncate(snapshot.position)

    def _write(self, arrays: list[np.ndarray], position: int) -> None:
        """Copy the keys and values of the first tokens into the row."""
        if position > self._buffers.capacity:
            self._buffers.note(self.row, 0)
            self._buffers.grow(self._room(position))
        for buffer, array in zip(self._buffers.whole, arrays, strict=True):
            buffer[self.row, :, :position] = array[0, :, :position]

    def _rows_of(self, buffers: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Its row of each."""
        return [buffer[self.row : self.row + 1] for buffer in buffers]

    def _copy(self, position: int) -> list[np.ndarray]:
        """States, and what windows hold, after `position` tokens."""
        windows = zip(self._rows_of(self._buffers.windows), self._windows.values(), strict=True)
        rows = (buffer[:, :, : window.held(position)] for buffer, window in windows)
        return [array.copy() for array in (*self._buffers.states_of(self.turn, self.row), *rows)]

    def _save_place(self, position: int) -> None:
        self._saved.pop(position, None)
        self._saved[position] = self._copy(position)
        size = sum(array.nbytes for array in self._saved[position])
        while len(self._saved) > (state_copies(size) if self._state_names else self._copies):
            del self._saved[next(iter(self._saved))]

    def _evicts(self, position: int, total: int) -> bool:
        """Whether a pass makes windows evict tokens that one may go back to; not where a copy would be too large."""
        return self._copies > 0 and not self._state_names and not self._windows_hold(total, position)

    def _windows_hold(self, reached: int, position: int) -> bool:
        """Whether windows after `reached` tokens hold all that is seen after `position` of them; never with states, which
        are no record.
        """
        if self._state_names or not self._windows or reached < position:
            return False
        return all(window.evicted(position) == window.evicted(reached) for window in self._kinds)

    def _whole_bytes(self, tokens: int) -> int:
        return tokens * self._buffers.layout.token_bytes

    def _window_bytes(self, tokens: int) -> int:
        """Bytes of windows after so many tokens: what was never written takes no memory."""
        windows = self._rows_of(self._buffers.windows)
        return sum(buffer.nbytes // buffer.shape[2] * min(tokens, buffer.shape[2]) for buffer in windows)

    def _state_bytes(self) -> int:
        return sum(state.nbytes for turn in range(2) for state in self._buffers.states_of(turn, self.row))

    def _saved_bytes(self) -> int:
        return sum(array.nbytes for arrays in tuple(self._saved.values()) for array in arrays)

    def needs(self, tokens: int) -> int:
        """Bytes of buffers with room for so many tokens, and of states; see `nbytes`."""
        room = tokens
        if self._alone:
            room = self._buffers.capacity if tokens <= self._buffers.capacity else self._room(tokens)
        windows = self._window_bytes(max(tokens, self._touched)) + (self._saved_bytes() if self._windows else 0)
        return self._whole_bytes(room) + self._state_bytes() + windows

    def _room(self, needed: int) -> int:
        """The capacity to grow to: doubled until it is enough, the context at most."""
        capacity = max(self._buffers.capacity, SMALLEST)
        while capacity < needed:
            capacity *= 2
        return min(capacity, self._context)
