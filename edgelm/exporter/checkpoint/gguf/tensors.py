"""Tensors of a GGUF file, dequantised a slice at a time, and given as a Hugging Face checkpoint has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgelm.errors import CheckpointError
from edgelm.exporter.checkpoint.gguf.block_types import dequantize
from edgelm.exporter.checkpoint.gguf.header import TensorInfo
from edgelm.exporter.checkpoint.tensors import Readable, RowRange, slices_as_read
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
class Rotated:
    """Rows of queries or keys in the order of a checkpoint.

    llama.cpp turns neighbouring rows of a head together where transformers turns rows half a head apart: row (i, j) of
    a head's [half, 2] there is row (j, i) of its [2, half] here.
    """

    base: GGUFTensor
    heads: int

    @property
    def file(self) -> Path:
        """The GGUF file."""
        return self.base.file

    @property
    def name(self) -> str:
        """What a checkpoint calls it."""
        return self.base.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.base.shape

    def order(self) -> np.ndarray:
        """The row of the file that row 0, 1, … is, int64 [rows]."""
        return np.arange(self.shape[0]).reshape(self.heads, -1, 2).swapaxes(1, 2).reshape(-1)

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """`count` elements from element `start` on, flat, as float32; whole heads are read."""
        width, rows = math.prod(self.shape[1:]), self.shape[0]
        end = math.prod(self.shape) if count is None else start + count
        head = rows // self.heads
        first, last = start // width // head * head, min(rows, -(-end // (width * head)) * head)
        span = self.base.read(first * width, (last - first) * width).reshape(last - first, width)
        values: np.ndarray = span[self.order()[first:last] - first].reshape(-1)
        return values[start - first * width : end - first * width]

    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Rows of each (first, end) in turn."""
        return slices_as_read(self, rows)


@dataclass(frozen=True)
class Shifted:
    """A norm's weights less what llama.cpp has them more: Gemma's are stored there with 1 added."""

    base: Readable
    offset: float

    @property
    def file(self) -> Path:
        """The GGUF file."""
        return self.base.file

    @property
    def name(self) -> str:
        """What a checkpoint calls it."""
        return self.base.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.base.shape

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """`count` elements from element `start` on, flat, as float32; None for all."""
        return self.base.read(start, count) - np.float32(self.offset)

    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Rows of each (first, end) in turn."""
        return slices_as_read(self, rows)


@dataclass(frozen=True)
class Reshaped:
    """The same values in the shape a checkpoint has them in."""

    base: Readable
    shape: tuple[int, ...]

    @property
    def file(self) -> Path:
        """The GGUF file."""
        return self.base.file

    @property
    def name(self) -> str:
        """What a checkpoint calls it."""
        return self.base.name

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """`count` elements from element `start` on, flat, as float32; None for all."""
        return self.base.read(start, count)

    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Rows of each (first, end) in turn."""
        return slices_as_read(self, rows)


@dataclass(frozen=True)
class Transposed:
    """A matrix [inputs, outputs], as GPT-2's checkpoints have them, of a file that has it [outputs, inputs]."""

    base: GGUFTensor

    @property
    def file(self) -> Path:
        """The GGUF file."""
        return self.base.file

    @property
    def name(self) -> str:
        """What a checkpoint calls it."""
        return self.base.name

    @property
    def shape(self) -> tuple[int, ...]:
        """[inputs, outputs]."""
        return self.base.shape[::-1]

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """`count` elements from element `start` on, flat, as float32; the whole matrix is dequantised for them."""
        end = math.prod(self.shape) if count is None else start + count
        return self._whole().reshape(-1)[start:end]

    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Rows of each (first, end) in turn; dequantised once for all of them."""
        whole = self._whole()
        for first, end in rows:
            yield whole[first:end]

    def _whole(self) -> np.ndarray:
        return self.base.read().reshape(self.base.shape).T
