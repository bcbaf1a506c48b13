"""Reading safetensors a slice at a time.

The format: 8 bytes of little-endian length, that many bytes of JSON, then the data
(https://github.com/huggingface/safetensors#format). Slices are read, not mapped: the pages of a mapped
checkpoint would count as memory in use, and push out what an export on a small machine needs.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from edgelm.errors import CheckpointError

# What a weight may be stored as.
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}

_INTEGERS: dict[str, np.dtype[Any]] = {
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
}


RowRange = tuple[int, int]
"""First row, and the one after the last."""


class Readable(Protocol):
    """A tensor of a checkpoint, however it is stored."""

    @property
    def file(self) -> Path:
        """Where it is."""

    @property
    def name(self) -> str:
        """What it is called there."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """`count` elements from element `start` on, flat, as float32; None for all."""

    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Rows, float32 [end - first, …], of each (first, end) in turn.

        What has to be computed for all of them, such as the values of a packed matrix, is computed once, and is gone when
        the iterator is.
        """


def slices_as_read(tensor: Readable, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
    """`Readable.slices` of a tensor whose rows can be read by themselves."""
    width = math.prod(tensor.shape[1:])
    for first, end in rows:
        yield tensor.read(first * width, (end - first) * width).reshape(end - first, *tensor.shape[1:])


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies.

    Attributes:
        file: the safetensors file.
        name: of the tensor.
        kind: element type as the file says it.
        shape: of the tensor.
        offset: of its first byte in the file.
        end: where it ends there.
    """

    file: Path
    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    end: int

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """`count` elements from element `start` on, flat, as float32; None for all.

        Raises:
            CheckpointError: the element type is not a float, or the file cannot be read.
        """
        dtype = self._dtype(_DTYPES)
        count = int(np.prod(self.shape)) - start if count is None else count
        try:
            values = np.fromfile(self.file, dtype, count, offset=self.offset + start * dtype.itemsize)
        except OSError as error:
            raise CheckpointError(f"{self.file} cannot be read: {error.strerror}") from None
        if len(values) != count:
            raise CheckpointError(f"{self.file} ended while tensor '{self.name}' was read", hint=_AGAIN)
        return values.astype(np.float32, copy=False)

    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Rows, float32 [end - first, …], of each (first, end) in turn; raises as `read` does."""
        return slices_as_read(self, rows)

    def same_bytes(self, other: Tensor) -> bool:
        """Whether the bytes of both are the same; CheckpointError where a file cannot be read."""
        size = self._size()
        if size != other._size():
            return False
        try:
            with self.file.open("rb") as mine, other.file.open("rb") as its:
                mine.seek(self.offset)
                its.seek(other.offset)
                for start in range(0, size, _PIECE):
                    count = min(_PIECE, size - start)
                    if mine.read(count) != its.read(count):
                        return False
        except OSError as error:
            raise CheckpointError(f"{self.file} cannot be read: {error.strerror}") from None
        return True

    def _size(self) -> int:
        """In bytes."""
        return self.end - self.offset

    def integers(self) -> np.ndarray:
        """The whole of an integer tensor, in its shape and type."""
        dtype = self._dtype(_INTEGERS)
        try:
            values = np.fromfile(self.file, dtype, int(np.prod(self.shape)), offset=self.offset)
        except OSError as error:
            raise CheckpointError(f"{self.file} cannot be read: {error.strerror}") from None
        return values.reshape(self.shape)

    def _dtype(self, known: dict[str, np.dtype[Any]]) -> np.dtype[Any]:
        if self.kind not in known:
            raise CheckpointError(
                f"{self.file}: tensor '{self.name}' is stored as {self.kind}, expected one of {', '.join(known)}",
                hint="export the unquantised checkpoint",
            )
        return known[self.kind]


_AGAIN = "download the checkpoint again"
_PIECE = 4 << 20  # bytes of one comparison


def read_header(path: Path) -> dict[str, Tensor]:
    """Name → tensor of a file, checked against the file's size.

    Raises:
        CheckpointError: not a safetensors file, or a truncated one.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if len(head) < 8 or length > size - 8:
                raise CheckpointError(f"{path} is truncated: {size:,} bytes do not hold its header", hint=_AGAIN)
            table = json.loads(file.read(length))
        table.pop("__metadata__", None)
        start = 8 + length
        tensors = {name: _entry(path, name, entry, start) for name, entry in table.items()}
        end = start + max((int(entry["data_offsets"][1]) for entry in table.values()), default=0)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} is not a safetensors file: its header cannot be read", hint=_AGAIN) from None
    if size < end:
        raise CheckpointError(f"{path} is truncated: {size:,} bytes, expected {end:,}", hint=_AGAIN)
    return tensors


def _entry(path: Path, name: str, entry: dict[str, object], start: int) -> Tensor:
    """One tensor of the header; ValueError where its bytes do not fit its shape."""
    kind, shape = str(entry["dtype"]), tuple(int(size) for size in entry["shape"])  # type: ignore[attr-defined]
    first, last = (int(offset) for offset in entry["data_offsets"])  # type: ignore[attr-defined]
    if min((first, *shape), default=0) < 0 or (
        kind in _DTYPES and last - first != _DTYPES[kind].itemsize * np.prod(shape, dtype=object)
    ):
        raise ValueError(name)
    return Tensor(path, name, kind, shape, start + first, start + last)
