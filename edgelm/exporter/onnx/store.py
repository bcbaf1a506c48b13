"""A data file, such as model.onnx.data: tensors appended one after another, and where each one lies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from edgelm.bundle.reader import DATA

_PAGE = 4096  # large tensors start on a page, so that each can be mapped by itself
_LINE = 64  # small ones on a cache line


@dataclass(frozen=True)
class Stored:
    """A tensor in the data file.

    Attributes:
        dtype: numpy name of the element type.
        shape: as the graph sees it.
        offset, length: bytes in the file.
        file: its name.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int
    file: str = DATA

    def viewed(self, *shape: int) -> Stored:
        """The same bytes under another shape."""
        if np.prod(shape) != np.prod(self.shape):
            raise ValueError(f"cannot view {self.shape} as {shape}")
        return replace(self, shape=shape)


class DataFile:
    """Writes the data file from front to back; use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self._file = path.open("wb")
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._end

    def append(self, array: np.ndarray) -> Stored:
        """Write a whole tensor."""
        return self.append_rows([array], array.shape, array.dtype)

    def append_rows(self, pieces: Iterable[np.ndarray], shape: tuple[int, ...], dtype: npt.DTypeLike) -> Stored:
        """Write a tensor that arrives in slices along its first axis."""
        dtype = np.dtype(dtype)
        length = int(np.prod(shape)) * dtype.itemsize
        self._align(_PAGE if length >= _PAGE else _LINE)
        start = self._end
        for piece in pieces:
            data = np.ascontiguousarray(piece, dtype=dtype)
            self._file.write(data.data if data.size else b"")
            self._end += data.nbytes
        if self._end - start != length:
            raise ValueError(f"tensor of shape {shape} came with {self._end - start} bytes, expected {length}")
        return Stored(dtype.name, tuple(shape), start, length, self.name)

    def _align(self, boundary: int) -> None:
        padding = -self._end % boundary
        self._file.write(bytes(padding))
        self._end += padding


class SizedFile(DataFile):
    """Counts what would be written, and writes nothing."""

    def __init__(self, name: str = DATA) -> None:
        self.name = name
        self._end = 0

    def __exit__(self, *_: object) -> None:
        pass

    def append_rows(self, pieces: Iterable[np.ndarray], shape: tuple[int, ...], dtype: npt.DTypeLike) -> Stored:
        """Where the tensor would lie; its slices are not asked for."""
        dtype = np.dtype(dtype)
        length = int(np.prod(shape)) * dtype.itemsize
        self._align(_PAGE if length >= _PAGE else _LINE)
        self._end += length
        return Stored(dtype.name, tuple(shape), self._end - length, length, self.name)

    def _align(self, boundary: int) -> None:
        self._end += -self._end % boundary
