"""Tensors of a GGUF file, dequantised a slice at a time, and given as a Hugging Face checkpoint has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgelm.errors import CheckpointError
from edgelm.exporter.checkpoint.codes import Coded, Codes, CodeType
from edgelm.exporter.checkpoint.gguf import codes
from edgelm.exporter.checkpoint.gguf.block_types import dequantize
from edgelm.exporter.checkpoint.gguf.header import TensorInfo
from edgelm.exporter.checkpoint.tensors import Derived, RowRange, slices_as_read
from edgelm.files import open_regular


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor as the file has it, under the name of another; `name` is what a checkpoint calls it."""

    info: TensorInfo
    name: str

    @property
    def file(self) -> Path:
        """The GGUF file."""
        return self.info.file

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.info.shape

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """`count` elements from element `start` on, flat, as float32; None for all."""
        count = math.prod(self.shape) - start if count is None else count
        size = self.info.type.size
        first, last = start // size, -(-(start + count) // size)
        values = dequantize(self.info.type, self.blocks(first, last - first).reshape(-1))
        return values[start - first * size : start - first * size + count]

    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Rows of each (first, end) in turn."""
        return slices_as_read(self, rows)

    @property
    def code_type(self) -> CodeType | None:
        """What its codes are; None where the element type has none that an operator could hold."""
        return codes.code_type(self.info.type.name) if len(self.shape) == 2 else None

    def code_slices(self, rows: Iterable[RowRange]) -> Iterator[Codes]:
        """The codes of rows of each (first, end) in turn."""
        width = self.shape[1] // self.info.type.size
        for first, end in rows:
            blocks = self.blocks(first * width, (end - first) * width)
            yield codes.unpack(self.info.type.name, blocks, (end - first, self.shape[1]))

    def blocks(self, first: int, count: int) -> np.ndarray:
        """`count` blocks from block `first` on, as they lie in the file: uint8 [count, bytes of a block]."""
        length = self.info.type.bytes
        try:
            with open_regular(self.file) as file:
                data = np.fromfile(file, np.uint8, count * length, offset=self.info.offset + first * length)
        except OSError as error:
            raise CheckpointError(f"{self.file} cannot be read: {error.strerror}") from None
        if len(data) != count * length:
            raise CheckpointError(
                f"{self.file} ended while tensor '{self.info.name}' was read", hint="download it again"
            )
        return data.reshape(count, length)


@dataclass(frozen=True)
class Rotated(Derived):
    """Rows of queries or keys in the order of a checkpoint.

    llama.cpp turns neighbouring rows of a head together where transformers turns rows half a head apart: row (i, j) of
    a head's [half, 2] there is row (j, i) of its [2, half] here.
    """

    heads: int

    def order(self, rows: np.ndarray) -> np.ndarray:
        """The rows of the file that these `rows` are, int64 of any shape."""
        head = self.shape[0] // self.heads
        half, within = head // 2, rows % head
        found: np.ndarray = rows - within + within % half * 2 + within // half
        return found

    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Rows of each (first, end) in turn; the heads that they are of are dequantised whole."""
        spans, orders = self._heads(rows)
        for values, order in zip(self.base.slices(spans), orders, strict=True):
            yield values[order]

    @property
    def code_type(self) -> CodeType | None:
        """Of the tensor in the file."""
        return self.base.code_type if isinstance(self.base, Coded) else None

    def code_slices(self, rows: Iterable[RowRange]) -> Iterator[Codes]:
        """The codes of rows of each (first, end) in turn."""
        assert isinstance(self.base, Coded)
        spans, orders = self._heads(rows)
        for found, order in zip(self.base.code_slices(spans), orders, strict=True):
            yield found.picked(order)

    def _heads(self, rows: Iterable[RowRange]) -> tuple[list[RowRange], list[np.ndarray]]:
        """For each (first, end): the rows of the heads that it is of, and which of those it is."""
        head, ranges = self.shape[0] // self.heads, list(rows)
        spans = [(first // head * head, -(-end // head) * head) for first, end in ranges]
        orders = [
            self.order(np.arange(first, end)) - start for (first, end), (start, _) in zip(ranges, spans, strict=True)
        ]
        return spans, orders


@dataclass(frozen=True)
class Shifted(Derived):
    """A norm's weights less what llama.cpp has them more: Gemma's are stored there with 1 added."""

    offset: float

    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Elements of each (first, end) in turn."""
        return (values - np.float32(self.offset) for values in self.base.slices(rows))


@dataclass(frozen=True)
class Reshaped(Derived):
    """The same values, rows and all, with other axes behind the first."""

    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """As a checkpoint has it."""
        return (self.base.shape[0], *self.axes)

    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Rows of each (first, end) in turn."""
        return (values.reshape(-1, *self.axes) for values in self.base.slices(rows))


@dataclass(frozen=True)
class Transposed(Derived):
    """A matrix [inputs, outputs], as GPT-2's checkpoints have them, of a file that has it [outputs, inputs]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[inputs, outputs]."""
        return self.base.shape[::-1]

    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Rows of each (first, end) in turn; the matrix is dequantised once for all of them."""
        whole = self.base.read().reshape(self.base.shape).T
        for first, end in rows:
            yield whole[first:end]
