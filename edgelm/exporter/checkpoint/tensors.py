"""Reading safetensors a slice at a time.

The format: 8 bytes of little-endian length, that many bytes of JSON, then the data
(https://github.com/huggingface/safetensors#format). Slices are read, not mapped: the pages of a mapped
checkpoint would count as memory in use, and push out what an export on a small machine needs.
"""

from __future__ import annotations

import math
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from edgelm.errors import CheckpointError
from edgelm.files import open_regular
from edgelm.json_text import json_value

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


# Bits of an element of every type that the format knows.
_BITS = {name: 8 * dtype.itemsize for name, dtype in (_DTYPES | _INTEGERS).items()}
_BITS |= {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8}
_BITS |= {"I16": 16, "U16": 16, "U32": 32, "U64": 64, "C64": 64}

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
class Derived(ABC):
    """A tensor that is made of another one as it is read, and stands in for it: a subclass says how its `slices` are made,
    and its `shape` where that is another.

    Attributes:
        base: the tensor that it is made of.
    """

    base: Readable

    @property
    def file(self) -> Path:
        """Where the other is."""
        return self.base.file

    @property
    def name(self) -> str:
        """Of the other."""
        return self.base.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.base.shape

    @abstractmethod
    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Rows, float32 [end - first, …], of each (first, end) in turn; elements of a vector are its rows."""

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """`count` elements from element `start` on, flat, as float32, of the rows that hold them; None for all."""
        width = math.prod(self.shape[1:])
        end = math.prod(self.shape) if count is None else start + count
        first, last = start // width, -(-end // width)
        values: np.ndarray = next(self.slices([(first, last)])).reshape(-1)
        return values[start - first * width : end - first * width]


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
            with open_regular(self.file) as file:
                values = np.fromfile(file, dtype, count, offset=self.offset + start * dtype.itemsize)
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
            with open_regular(self.file) as mine, open_regular(other.file) as its:
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
            with open_regular(self.file) as file:
                values = np.fromfile(file, dtype, int(np.prod(self.shape)), offset=self.offset)
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
_LONGEST_HEADER = 32 << 20  # bytes; 200,000 tensors take fewer
_MOST_TENSORS = 200_000  # in a file; a model for a device has some thousands
_PIECE = 4 << 20  # bytes of one comparison


def read_header(path: Path) -> dict[str, Tensor]:
    """Name → tensor of a file, checked as safetensors' own reader does: no holes, no overlaps, nothing behind the last.

    Raises:
        CheckpointError: not a safetensors file, or a truncated one.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if len(head) < 8 or length > size - 8:
                raise CheckpointError(f"{path} is truncated: {size:,} bytes do not hold its header", hint=_AGAIN)
            if length > _LONGEST_HEADER:
                raise CheckpointError(
                    f"{path} is not a safetensors file: its header would have {length:,} bytes", hint=_AGAIN
                )
            text = file.read(length)
        if (count := text.count(b'"data_offsets"')) > _MOST_TENSORS:
            raise CheckpointError(f"{path} holds {count:,} tensors; edgelm reads up to {_MOST_TENSORS:,} in a file")
        table, start = _table(text), 8 + length
        tensors = {name: _entry(path, name, entry, start) for name, entry in table.items()}
        ends = [(tensor.offset, tensor.end, name) for name, tensor in tensors.items()]
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError):
        raise CheckpointError(f"{path} is not a safetensors file: its header cannot be read", hint=_AGAIN) from None
    _expect_whole(path, size, start, sorted(ends))
    return tensors


def _expect_whole(path: Path, size: int, start: int, ends: list[tuple[int, int, str]]) -> None:
    """CheckpointError where the tensors, (first byte, end, name) in order, are not the file's bytes from `start` on."""
    last = max((end for _, end, _ in ends), default=start)
    if size < last:
        raise CheckpointError(f"{path} is truncated: {size:,} bytes, expected {last:,}", hint=_AGAIN)
    at = start
    for first, end, name in ends:
        if first != at:
            what = "shares bytes with another one" if first < at else "does not follow the one before it"
            raise CheckpointError(f"{path} is damaged: tensor '{name}' {what}", hint=_AGAIN)
        at = end
    if at != size:
        raise CheckpointError(f"{path} is damaged: {size - at:,} bytes behind its last tensor", hint=_AGAIN)


def _entry(path: Path, name: str, entry: dict[str, object], start: int) -> Tensor:
    """One tensor of the header; ValueError where its bytes do not fit its shape."""
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or not isinstance(kind, str):
        raise ValueError(name)
    if any(type(number) is not int or not 0 <= number < 1 << 64 for number in (*shape, *offsets)):
        raise ValueError(name)
    first, last = offsets
    if last < first or 8 * (last - first) != _BITS[kind] * math.prod(shape):
        raise ValueError(name)
    return Tensor(path, name, kind, tuple(shape), start + first, start + last)


def _table(text: bytes) -> dict[str, dict[str, object]]:
    """The entries of a header; ValueError where that is not JSON as the format's own reader takes it."""
    table = json_value(text.decode("utf-8"))
    metadata = table.pop("__metadata__", None)
    facts = {} if metadata is None else metadata
    if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
        raise ValueError("metadata")
    return dict(table)
