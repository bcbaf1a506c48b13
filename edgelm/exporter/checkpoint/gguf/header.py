"""The header of a GGUF file: its metadata, and where its tensors lie.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): ``GGUF``, a version, two counts; that many keys
with typed values; that many names with shape, element type and offset; then, aligned, the data. All numbers are
little-endian. Every count and length is held against the bytes that are left before anything is allocated by it.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter.checkpoint.gguf.block_types import BlockType, block_type
from edgelm.files import open_regular

MAGIC = b"GGUF"
_VERSION = 3
_AGAIN = "download it again"
_ALIGNMENT = 32
_MOST_AXES = 4
_MOST_KEYS, _MOST_TENSORS = 100_000, 200_000  # a model for a device has dozens of the ones and hundreds of the others
_MOST_STRINGS = 1 << 22  # of a list; the largest vocabulary has 514,000 merges
_LONGEST_NAME = 256
# Type number → how struct and numpy call it.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LEAST_BYTES = {_STRING: 8, _ARRAY: 12}  # of a value that is not a number


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies.

    Attributes:
        file: the GGUF file.
        name: of the tensor there.
        type: how its elements are stored.
        shape: with the axis that is contiguous last, as numpy has it.
        offset: of its first byte in the file.
    """

    file: Path
    name: str
    type: BlockType
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Header:
    """What a file says before its data.

    Attributes:
        path: the file.
        metadata: key → a number, a bool, a str, a list of str, or a numpy array of numbers.
        tensors: by name.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]


class CutShortError(CheckpointError):
    """A file that does not hold all of its header."""


def is_gguf(path: Path) -> bool:
    """Whether a path is that of a GGUF file, by its name or its first bytes."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".gguf":
        return True
    try:
        with open_regular(path) as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def read_header(path: Path, size: int | None = None) -> Header:
    """Metadata and tensors of a file, checked against the file's size; with a `size`, `path` has the first bytes of a file of
    so many.

    Raises:
        CutShortError: the header is not all there.
        CheckpointError: not a GGUF file, a damaged or truncated one.
        UnsupportedModelError: another version, byte order or element type.
    """
    try:
        there = path.stat().st_size
        with open_regular(path) as file:
            if there < 24:
                _no_gguf(path, file.read(4), there)
            with (
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
                contextlib.closing(_Cursor(path, data, size)) as at,
            ):
                return _read(at)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None


def _no_gguf(path: Path, start: bytes, size: int) -> NoReturn:
    if start == MAGIC:
        raise CheckpointError(f"{path} is cut short: {size:,} bytes do not hold a GGUF header", hint=_AGAIN)
    raise CheckpointError(f"{path} is not a GGUF file", hint="give a *.gguf file, a checkpoint folder, or a hub id")


def _read(at: _Cursor) -> Header:
    start = at.take(4)
    if start != MAGIC:
        _no_gguf(at.path, start, at.size)
    _check_version(at)
    tensors, keys = at.number("Q"), at.number("Q")
    at.expect(keys, 13, "keys", _MOST_KEYS)
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        name = at.name("a key")
        metadata[name] = at.value(at.number("I"), name)
    at.expect(tensors, 24, "tensors", _MOST_TENSORS)
    infos = [_tensor(at) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 8 or alignment % 8:
        raise at.wrong("general.alignment is no multiple of 8")
    start_of_data = -(-at.at // alignment) * alignment
    table = {info.name: replace(info, offset=start_of_data + info.offset) for info in infos}
    if len(table) != len(infos):
        raise at.wrong("two tensors have the same name")
    _check_ends(at, table)
    return Header(at.path, metadata, table)


def _check_version(at: _Cursor) -> None:
    version = at.number("I")
    if version == _VERSION:
        return
    if not version & 0xFFFF:
        raise UnsupportedModelError(
            f"{at.path} is a GGUF file for processors of the other byte order (big-endian)",
            hint="convert it: gguf-convert-endian FILE little (pip install gguf), or download the usual file",
        )
    raise UnsupportedModelError(
        f"{at.path} is a GGUF file of version {version}; edgelm reads version {_VERSION}",
        hint="download a newer file, or make one: versions 1 and 2 are from 2023"
        if version < _VERSION
        else "a newer edgelm may read it",
    )


def _tensor(at: _Cursor) -> TensorInfo:
    """One tensor, its offset still counted from the start of the data."""
    name = at.name("a tensor")
    axes = at.number("I")
    if not 1 <= axes <= _MOST_AXES:
        raise at.wrong(f"tensor '{name}' has {axes:,} axes, expected 1 to {_MOST_AXES}")
    shape = tuple(at.number("Q") for _ in range(axes))[::-1]
    kind, offset = at.number("I"), at.number("Q")
    try:
        found = block_type(kind)
    except ValueError as reason:
        raise UnsupportedModelError(
            f"{at.path}: tensor '{name}' is stored as {reason}, which edgelm cannot read",
            hint="take another quantisation of the model",
        ) from None
    if shape[-1] % found.size:
        raise at.wrong(
            f"tensor '{name}' has rows of {shape[-1]:,} values, expected whole {found.name} blocks of {found.size}"
        )
    return TensorInfo(at.path, name, found, shape, offset)


def _check_ends(at: _Cursor, tensors: Mapping[str, TensorInfo]) -> None:
    """CheckpointError where a tensor goes beyond the end of the file, or shares bytes with another one."""
    last = 0
    for info in sorted(tensors.values(), key=lambda info: info.offset):
        end = info.offset + math.prod(info.shape) // info.type.size * info.type.bytes
        if info.offset < last:
            raise at.wrong(f"tensor '{info.name}' shares bytes with another one")
        last = end
        if end > at.whole:
            raise CheckpointError(
                f"{at.path} is cut short: {at.whole:,} bytes, and tensor '{info.name}' ends at {end:,}", hint=_AGAIN
            )


class _Cursor:
    """Reads a mapped file from its start; what goes beyond its end is an error, not an allocation."""

    def __init__(self, path: Path, data: mmap.mmap, whole: int | None) -> None:
        self.path, self.size, self.at = path, len(data), 0
        self.whole = self.size if whole is None else whole  # bytes of the file, of which the first may be all there is
        self._data = memoryview(data)

    def close(self) -> None:
        self._data.release()

    def take(self, count: int) -> bytes:
        """The next bytes."""
        self.expect(count, 1, "bytes")
        self.at += count
        return bytes(self._data[self.at - count : self.at])

    def number(self, code: str) -> Any:
        """The next number, by struct's letter for its type."""
        size = struct.calcsize(f"<{code}")
        self.expect(1, size, "numbers")
        (value,) = struct.unpack_from(f"<{code}", self._data, self.at)
        self.at += size
        return value

    def text(self, what: str) -> str:
        """The next string."""
        length = self.number("Q")
        self.expect(length, 1, f"bytes of {what}")
        self.at += length
        return str(self._data[self.at - length : self.at], "utf-8", "replace")  # a token may be half a character

    def name(self, of: str) -> str:
        """The next string, which is a name and may be printed."""
        name = self.text(f"the name of {of}")
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise self.wrong(f"the name of {of} is no text")
        return name

    def value(self, kind: int, key: str) -> Any:
        """The next value, of the type with this number."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text(f"'{key}'")
        if kind != _ARRAY:
            raise self.wrong(f"key '{key}' is of type {kind}, which GGUF does not have")
        inner, count = self.number("I"), self.number("Q")
        if inner in _SCALARS:
            return self._numbers(_SCALARS[inner], count, key)
        if inner != _STRING:
            raise self.wrong(f"key '{key}' is an array of type {inner}, which edgelm does not know")
        self.expect(count, _LEAST_BYTES[inner], f"strings of '{key}'", _MOST_STRINGS)
        return list(self._strings(count, key))

    def _numbers(self, code: str, count: int, key: str) -> np.ndarray:
        dtype = np.dtype(np.bool_) if code == "?" else np.dtype(f"<{code}")
        self.expect(count, dtype.itemsize, f"numbers of '{key}'")
        values = np.frombuffer(self._data, dtype, count, self.at).copy()
        self.at += count * dtype.itemsize
        return values

    def _strings(self, count: int, key: str) -> Iterator[str]:
        unpack, data, at, size = struct.Struct("<Q").unpack_from, self._data, self.at, self.size
        for _ in range(count):  # half a million of them in a large vocabulary: the loop is kept tight
            if at + 8 > size or (end := at + 8 + unpack(data, at)[0]) > size:
                raise self.cut(f"strings of '{key}'")
            yield str(data[at + 8 : end], "utf-8", "replace")
            at = end
        self.at = at

    def expect(self, count: int, size: int, what: str, most: int | None = None) -> None:
        """CheckpointError unless `count` things of `size` bytes at least fit into what is left of the file, and there are
        `most` of them.
        """
        if count * size > self.size - self.at:
            raise self.cut(f"{count:,} {what}")
        if most is not None and count > most:
            raise self.wrong(f"it has {count:,} {what}, expected {most:,} at most")

    def cut(self, what: str) -> CutShortError:
        """The error for a file that ends before all of `what`."""
        return CutShortError(
            f"{self.path} is cut short or damaged: its {self.size:,} bytes do not hold {what}", hint=_AGAIN
        )

    def wrong(self, what: str) -> CheckpointError:
        """The error for a header that cannot be."""
        return CheckpointError(f"{self.path} is damaged: {what}", hint=_AGAIN)
