"""A calibration text on its way through a decoder, matrix by matrix; every product is made once, some texts at a time by
each core.

What is held is the hidden states, what one matrix reads or the products it gave, and of a layer's other products those
that a later part of it reads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event

import numpy as np

from edgelm.exporter.calibration.layer_runner import Part
from edgelm.exporter.formats.parallel import Stopped, ordered_map
from edgelm.exporter.model.decoder import Decoder, Layer, Linear

_TOGETHER = 1024  # tokens whose product with a matrix is made at once: more take as long each, fewer longer


@dataclass
class Flow:
    """The hidden states of a text.

    Attributes:
        decoder: of the model.
        hidden: of every chunk [S, hidden], before the layer that comes next.
        workers: groups of chunks that are worked on at once; None for as many as there are cores.
        stop: once it is set, going on raises `Stopped`.
    """

    decoder: Decoder
    hidden: list[np.ndarray]
    workers: int | None = None
    stop: Event | None = None
    _products: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _last: tuple[Linear, np.ndarray, np.ndarray] | None = None
    _inputs: np.ndarray | None = None
    _buffers: list[np.ndarray] = field(default_factory=list)

    def through(self, layer: Layer, parts: Sequence[Part]) -> Iterator[tuple[Linear, np.ndarray]]:
        """Every matrix of a layer and its inputs [tokens, k], in turn; each is to be answered by `multiply`, and is
        overwritten later.
        """
        for number, linear in enumerate(layer.linears):
            self._inputs = self._buffer(linear.inputs)
            start = 0
            for out in self._run(parts, number):
                self._inputs[start : start + len(out)] = out
                start += len(out)
            yield linear, self._inputs
        for chunk, out in enumerate(self._run(parts, len(layer.linears))):
            self.hidden[chunk] = out
        self._products, self._last = {}, None

    def _buffer(self, width: int) -> np.ndarray:
        """Room for inputs [tokens, width] beside those of the matrix before: fresh memory costs as much as its use."""
        size = sum(map(len, self.hidden)) * width
        last = None if self._last is None else self._last[1].base
        free = next((number for number, buffer in enumerate(self._buffers) if buffer is not last), len(self._buffers))
        if free == len(self._buffers) or len(self._buffers[free]) < size:
            self._buffers[free : free + 1] = [np.empty(size, np.float32)]
        return self._buffers[free][:size].reshape(-1, width)

    def multiply(self, linear: Linear, weight: np.ndarray) -> None:
        """Give the matrix [n, k], rounded or not, that the last inputs are to be multiplied with."""
        assert self._inputs is not None
        self._last, self._inputs = (linear, self._inputs, weight), None

    def _run(self, parts: Sequence[Part], number: int) -> Iterator[np.ndarray]:
        """What a part gives for every chunk; of the products only those stay that later parts need."""
        later = frozenset[str]().union(*(part.needs for part in parts[number + 1 :]))
        last, part = self._last, parts[number]
        name = None if last is None else last[0].name
        earlier, keeps = part.needs & self._products.keys(), name in later

        def run(group: range) -> list[tuple[np.ndarray | None, np.ndarray]]:
            """Of every chunk of the group its product with the last matrix, and what the part gives."""
            if self.stop is not None and self.stop.is_set():
                raise Stopped
            products = [None] * len(group) if last is None else self._multiplied(group, *last[1:])
            found = []
            for chunk, product in zip(group, products, strict=True):
                given = {other: self._products[other][chunk][None] for other in earlier}
                if name is not None and product is not None:
                    given[name] = product[None]
                found.append((product if keeps else None, part.run(self.hidden[chunk][None], given)))
            return found

        kept: list[np.ndarray] = []
        for group in ordered_map(run, self._groups(), self.workers):
            for product, out in group:
                if product is not None:
                    kept.append(product)
                yield out
        if name is not None and keeps:
            self._products[name] = kept
        self._last = None
        self._products = {name: values for name, values in self._products.items() if name in later}

    def _groups(self) -> Iterator[range]:
        """Chunks that are multiplied at once: as many as have `_TOGETHER` tokens, or the last ones."""
        first, tokens = 0, 0
        for chunk, x in enumerate(self.hidden):
            tokens += len(x)
            if tokens >= _TOGETHER or chunk + 1 == len(self.hidden):
                yield range(first, chunk + 1)
                first, tokens = chunk + 1, 0

    def _multiplied(self, group: range, inputs: np.ndarray, weight: np.ndarray) -> Iterator[np.ndarray]:
        """The product of every chunk of a group, made at once."""
        sizes = list(map(len, self.hidden))
        bounds = np.cumsum([sum(sizes[: group.start]), *sizes[group.start : group.stop]])
        several = inputs[bounds[0] : bounds[-1]] @ weight.T
        yield from (several[a - bounds[0] : b - bounds[0]] for a, b in itertools.pairwise(bounds))
