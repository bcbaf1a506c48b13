"""A calibration text on its way through a decoder, matrix by matrix; every product is made once.

What is held is the hidden states, what one matrix reads or the products it gave, and of a layer's other products those
that a later part of it reads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgelm.exporter.calibration.layer_runner import Part
from edgelm.exporter.model.decoder import Decoder, Layer, Linear

_TOGETHER = 2048  # tokens whose product with a matrix is made at once: more take as long each, fewer longer


@dataclass
class Flow:
    """The hidden states of a text.

    Attributes:
        decoder: of the model.
        hidden: of every chunk [S, hidden], before the layer that comes next.
    """

    decoder: Decoder
    hidden: list[np.ndarray]
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
        earlier = part.needs & self._products.keys()
        products = iter(()) if last is None else self._multiplied(*last[1:])
        for chunk, x in enumerate(self.hidden):
            given = {name: self._products[name][chunk][None] for name in earlier}
            if last is not None:
                name, product = last[0].name, next(products)
                if name in later:
                    self._products.setdefault(name, []).append(product)
                given[name] = product[None]
            yield part.run(x[None], given)
        self._last = None
        self._products = {name: values for name, values in self._products.items() if name in later}

    def _multiplied(self, inputs: np.ndarray, weight: np.ndarray) -> Iterator[np.ndarray]:
        """The product of every chunk, several of which are made at once."""
        sizes, start = list(map(len, self.hidden)), 0
        while sizes:
            count = int(np.searchsorted(np.cumsum(sizes), _TOGETHER)) + 1
            bounds = np.cumsum([0, *sizes[:count]])
            several = inputs[start : start + bounds[-1]] @ weight.T
            yield from (several[a:b] for a, b in itertools.pairwise(bounds))
            start, sizes = start + bounds[-1], sizes[count:]
