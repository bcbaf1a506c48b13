"""The cache of graphs traced from transformers: every step takes the past as it is and returns it longer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgelm.machine.heap import give_back
from edgelm.runtime.kv.buffers import NUMPY, same_arrays
from edgelm.runtime.kv.cache import PROMPT_PASS, KVSnapshot
from edgelm.runtime.ort.session import PROMPT, ort


class ConcatCache:
    """Every step takes the past as it is and returns it longer."""

    def __init__(self, session: Any, vocab: int, prompts: Any = None) -> None:
        """As that of a `SharedCache`."""
        inputs = {i.name: i for i in session.get_inputs()}
        self._session, self._prompts = session, prompts or session
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

    def room(self, position: int) -> int | None:
        """Any number."""
        return None

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
        prompt = len(ids) >= PROMPT_PASS
        session, options = (self._prompts, PROMPT) if prompt else (self._session, None)
        logits, *self._values = session.run_with_ort_values(self._outputs, values, options)
        if prompt:
            give_back()
        result: np.ndarray = logits.numpy()[0]
        return result

    @property
    def fills(self) -> bool:
        """Never: traced graphs have no other beside them."""
        return False

    def fill(self, ids: np.ndarray, position: int) -> None:
        """A step like any other."""
        self.run(ids, position, 1)

    def truncate(self, position: int) -> int:
        """Cut the past after `position` tokens."""
        if position == 0:
            self._values = self._empty()
        else:
            cut = (np.ascontiguousarray(value.numpy()[:, :, :position]) for value in self._values)
            self._values = [ort.OrtValue.ortvalue_from_numpy(array) for array in cut]
        return position

    def save(self, position: int) -> KVSnapshot:
        """Views of the past."""
        return KVSnapshot(
            position, {i.name: v.numpy()[:, :, :position] for i, v in zip(self._past, self._values, strict=True)}
        )

    def needs(self, tokens: int) -> int:
        """Bytes of the past and the longer copy that a step returns."""
        per_token = sum(i.shape[1] * i.shape[3] * np.dtype(NUMPY[i.type]).itemsize for i in self._past)
        return int(2 * tokens * per_token)

    def feed(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Traced graphs have no such inputs."""
        assert not arrays

    def keep(self, position: int) -> None:
        """Nothing to do: `truncate` goes anywhere."""

    def takes(self, snapshot: KVSnapshot) -> bool:
        """The past of each layer, which may have room behind it."""
        lengths = {n: array.shape[2] for n, array in snapshot.layers.items() if array.ndim == 4}
        wanted = {i.name: ((1, i.shape[1], lengths.get(i.name, 0), i.shape[3]), NUMPY[i.type]) for i in self._past}
        enough = all(length >= snapshot.position for length in lengths.values())
        return enough and not snapshot.states and same_arrays(snapshot.layers, wanted)

    def load(self, snapshot: KVSnapshot) -> None:
        """Copies of the arrays become the past."""
        arrays = (np.ascontiguousarray(snapshot.layers[i.name][:, :, : snapshot.position]) for i in self._past)
        self._values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays]

    def _empty(self) -> list[Any]:
        shapes = [(1, i.shape[1], 0, i.shape[3]) for i in self._past]
        return [
            ort.OrtValue.ortvalue_from_numpy(np.zeros(s, NUMPY[i.type]))
            for s, i in zip(shapes, self._past, strict=True)
        ]
