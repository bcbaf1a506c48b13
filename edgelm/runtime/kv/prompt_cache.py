"""The file of a prompt cache: token ids, and the keys and values they left.

    magic        "edgelm prompt cache" and the format's number, 24 bytes
    length       of the header, 8 bytes, and its CRC-32, 8 bytes; little-endian
    header       JSON: the bundle's digest, the token ids, and for each array its place, shape, type and CRC-32
    arrays       each at a multiple of 4,096 bytes, as the engine holds it: [1, heads, capacity, head_dim]

The capacity leaves room for the next tokens, so that the mapped file (copy on write) serves as the engine's buffer: a
load copies nothing, and what is not written to can be dropped and read again when memory is short. The room is never
written, which most file systems store as nothing. Checksums guard against damage, not against an attacker: as
with any file of weights, take it from whom you trust.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgelm.errors import PromptCacheError
from edgelm.files import open_regular, replacing
from edgelm.json_text import json_value
from edgelm.runtime.kv.cache import KVSnapshot

MAGIC = b"edgelm prompt cache 1\n\0\0"
_KIND = MAGIC[:19]
_PAGE = 4096
_ROOM = 256  # tokens; what the capacity is a multiple of, and leaves room for
_HINT = "make it again: run once without it, or delete it"


def write(path: Path, digest: str, tokens: list[int], snapshot: KVSnapshot, context: int) -> None:
    """Write a prompt cache aside and rename it.

    Args:
        path: the file; one that is there is replaced if it is a prompt cache.
        digest: of the bundle.
        tokens: the ids.
        snapshot: what they left, as `Cache.save` gives it.
        context: the largest capacity of use.

    Raises:
        PromptCacheError: `path` is something else, or cannot be written.
    """
    if not tokens:
        raise PromptCacheError("there is nothing to save: no token was read yet")
    if os.path.lexists(path) and not is_prompt_cache(path):
        raise PromptCacheError(f"{path} is not a prompt cache and is left alone", hint="choose another file")
    capacity = min(context, -(-snapshot.position // _ROOM) * _ROOM + _ROOM)
    entries, arrays, end = list[dict[str, Any]](), list[np.ndarray](), 0
    for place, name, array in _arrays(snapshot):
        shape = [*array.shape[:2], capacity, array.shape[3]] if place is None else list(array.shape)
        entries.append(
            {
                "name": name,
                "state": place,
                "type": array.dtype.name,
                "shape": shape,
                "start": end,
                "crc32": _checksum(array),
            }
        )
        arrays.append(array)
        end = _aligned(end + int(np.prod(shape)) * array.itemsize)
    header = json.dumps({"bundle": digest, "tokens": tokens, "bytes": end, "arrays": entries}).encode()
    try:
        with replacing(path) as file:
            file.write(MAGIC + len(header).to_bytes(8, "little") + zlib.crc32(header).to_bytes(8, "little") + header)
            base = _aligned(file.tell())
            for entry, array in zip(entries, arrays, strict=True):
                _write_array(file, base + entry["start"], entry["shape"], array)
            file.truncate(base + end)
    except OSError as error:
        raise PromptCacheError(
            f"cannot write {path}: {error.strerror or error}", hint="choose another file, or free some space"
        ) from None


def read(path: Path, digest: str, *, check: bool = True) -> tuple[list[int], KVSnapshot]:
    """Map a prompt cache.

    Args:
        path: the file.
        digest: of the bundle it must belong to.
        check: whether to compare the checksums of keys and values, for which all of it is read.

    Returns:
        the token ids, and what they left; the arrays are private to this process, and may be written to.

    Raises:
        PromptCacheError: no prompt cache, damaged, or of another bundle.
    """
    try:
        with open_regular(path) as file:
            if file.read(len(_KIND)) != _KIND:
                raise PromptCacheError(f"{path} is not a prompt cache")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise PromptCacheError(f"prompt cache {path} cannot be read: {error.strerror or error}") from None
    if mapped[: len(MAGIC)] != MAGIC:
        raise PromptCacheError(f"{path} was saved by another version of edgelm", hint=_HINT, stale=True)
    try:
        return _read(path, mapped, digest, check)
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError):
        raise _damaged(path, "its header makes no sense") from None


def _read(path: Path, mapped: mmap.mmap, digest: str, check: bool) -> tuple[list[int], KVSnapshot]:
    """What is in the file; any error of Python where its header is of another form."""
    header, base = _header(path, mapped)
    if header["bundle"] != digest:
        raise PromptCacheError(f"{path} was saved with another bundle or adapter", hint=_HINT, stale=True)
    tokens, layers, states = header["tokens"], dict[str, np.ndarray](), dict[int, dict[str, np.ndarray]]()
    _expect_counts(tokens)
    for entry in header["arrays"]:
        shape, name, place = entry["shape"], entry["name"], entry["state"]
        _expect_counts([*shape, entry["start"], *([] if place is None else [place])])
        array = np.frombuffer(mapped, np.dtype(entry["type"]), math.prod(shape), base + entry["start"]).reshape(shape)
        if check and _checksum(array if place is not None else array[:, :, : len(tokens)]) != entry["crc32"]:
            raise _damaged(path, f"the checksum of {name} is wrong")
        (layers if place is None else states.setdefault(place, {}))[name] = array
    return tokens, KVSnapshot(len(tokens), layers, states)


def of_another_model(path: Path) -> PromptCacheError:
    """The error of a file whose arrays are not those that the model keeps (`Sequence.takes`)."""
    return _damaged(path, "it does not hold what this model keeps of its tokens")


def is_prompt_cache(path: Path) -> bool:
    """Whether a file begins like a prompt cache of any version."""
    try:
        with open_regular(path) as file:
            return file.read(len(_KIND)) == _KIND
    except OSError:
        return False


def _header(path: Path, mapped: mmap.mmap) -> tuple[dict[str, Any], int]:
    """The header, checked, and where the arrays begin."""
    start = len(MAGIC) + 16
    length, crc = (int.from_bytes(mapped[i : i + 8], "little") for i in (len(MAGIC), len(MAGIC) + 8))
    text, base = mapped[start : start + length], _aligned(start + length)
    if len(text) != length or zlib.crc32(text) != crc:
        raise _damaged(path, "the checksum of its header is wrong")
    header: dict[str, Any] = json_value(text)
    if len(mapped) != base + header["bytes"]:
        raise _damaged(path, f"it has {len(mapped):,} bytes and should have {base + header['bytes']:,}")
    return header, base


def _expect_counts(values: Any) -> None:
    """ValueError where it is no list of whole numbers from 0 on."""
    if not isinstance(values, list) or any(type(value) is not int or value < 0 for value in values):
        raise ValueError


def _arrays(snapshot: KVSnapshot) -> Iterator[tuple[int | None, str, np.ndarray]]:
    """Every array with its name, and for a state its place."""
    for name, array in snapshot.layers.items():
        yield None, name, array
    for place, states in snapshot.states.items():
        for name, array in states.items():
            yield place, name, array


def _pieces(array: np.ndarray) -> Iterator[memoryview]:
    """The bytes of an array in order, one contiguous piece after the other: a buffer's used part is one a head."""
    for part in [array] if array.flags.c_contiguous else array[0]:
        if part.size:
            yield np.ascontiguousarray(part).data.cast("B")


def _checksum(array: np.ndarray) -> int:
    crc = 0
    for piece in _pieces(array):
        crc = zlib.crc32(piece, crc)
    return crc


def _write_array(file: BinaryIO, start: int, shape: list[int], array: np.ndarray) -> None:
    """Write an array; keys and values head by head, each where there is room for more tokens."""
    parts, stride = ([array], 0) if list(array.shape) == shape else (array[0], int(np.prod(shape[2:])) * array.itemsize)
    for index, part in enumerate(parts):
        file.seek(start + index * stride)
        for piece in _pieces(part):
            file.write(piece)


def _damaged(path: Path, why: str) -> PromptCacheError:
    return PromptCacheError(f"{path} is damaged: {why}", hint=_HINT, stale=True)


def _aligned(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
