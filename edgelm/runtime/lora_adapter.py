"""LoRA adapters at run time: a file beside a bundle, whose factors a request feeds to the graph.

Hu et al. 2021 (https://arxiv.org/abs/2106.09685). The file is safetensors (https://github.com/huggingface/safetensors):
8 bytes of little-endian length, that many bytes of JSON, then the tensors, named as the graph's inputs. Its metadata say
for which weights it was made, and hold the hash of what is in it. It is mapped, and read where it is needed.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.bundle.reader import Bundle, lora_inputs
from edgelm.errors import AdapterError, suggest
from edgelm.files import expect_name, open_regular, path_argument
from edgelm.json_text import json_value

FORMAT = 1  # raised when an older edgelm could misread a file
METADATA = "edgelm_adapter"  # the key, in the file's metadata, of what edgelm says about it
_DTYPES = {"F32": "float32", "F16": "float16"}
_LONGEST = 16 << 20  # bytes of a header that is still one
_KEPT = 8  # adapters that stay open
_AGAIN = "copy the file again, or export it again: edgelm export ADAPTER --adapter-only --base BUNDLE"


@dataclass(frozen=True, eq=False)
class RuntimeAdapter:
    """An adapter, opened and checked.

    Attributes:
        path: the file.
        facts: what its export says about it: id, rank, alpha, sources, and the ``base`` it was made for.
        digest: SHA-256 of its tensors and names, in hex.
        arrays: input of the graph → A [inputs, rank] or B [rank, outputs]; mapped.
    """

    path: Path
    facts: Mapping[str, Any]
    digest: str
    arrays: Mapping[str, np.ndarray]

    @property
    def id(self) -> str:
        """What it is known by."""
        return str(self.facts.get("id") or self.path.stem)

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        return sum(array.nbytes for array in self.arrays.values())

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RuntimeAdapter:
        """Open an adapter's file, and check that it is whole.

        Raises:
            AdapterError: no adapter, or a damaged one.
        """
        file = path_argument("adapter", path)
        mapped = _map(file)
        header, start = _header(file, mapped)
        facts = _facts(file, header)
        arrays = dict(_arrays(file, header, mapped, start))
        digest = digest_of(arrays)
        if digest != facts.get("digest"):
            raise AdapterError(f"{file} was changed: the hash of its tensors is wrong", hint=_AGAIN)
        return cls(file, facts, digest, arrays)

    def expect_for(self, bundle: Bundle) -> None:
        """AdapterError where it cannot be used with `bundle`."""
        table = bundle.lora
        if table is None:
            raise AdapterError(
                f"{bundle.path} takes no adapter at run time",
                hint="export it with --lora-ready, or merge the adapter: edgelm export MODEL --adapter DIR",
            )
        if self.facts.get("base") != table["base"]:
            raise AdapterError(
                f"adapter {self.path} was made for another base than {bundle.path}",
                hint=suggest("export", "ADAPTER", "--adapter-only", "--base", bundle.path),
            )
        for entry in table["places"]:
            self._expect_place(entry, table["activations"])
        known = {name for entry in table["places"] for name in lora_inputs(entry["name"])}
        if unknown := sorted(self.arrays.keys() - known):
            raise AdapterError(f"{self.path}: {unknown[0]} has no place in {bundle.path}", hint=_AGAIN)

    def _expect_place(self, entry: Mapping[str, Any], dtype: str) -> None:
        """Both factors or none, of the right shapes and type."""
        names = lora_inputs(entry["name"])
        a, b = (self.arrays.get(name) for name in names)
        if a is None and b is None:
            return
        fits = a is not None and b is not None and a.ndim == b.ndim == 2 and a.dtype == b.dtype == np.dtype(dtype)
        if not fits or a is None or b is None or a.shape[1] != b.shape[0]:
            raise AdapterError(f"{self.path}: {names[0]} and {names[1]} do not go together", hint=_AGAIN)
        if (a.shape[0], b.shape[1]) != (entry["inputs"], entry["outputs"]):
            raise AdapterError(f"{self.path}: {names[0]} is for a matrix of another shape", hint=_AGAIN)


class AdapterCache:
    """Adapters of one bundle that are open; those used longest ago are evicted.

    Args:
        bundle: the bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._open: OrderedDict[tuple[object, ...], RuntimeAdapter] = OrderedDict()

    def get(self, path: str | os.PathLike[str]) -> RuntimeAdapter:
        """The adapter in a file; one that is as it was is not read again.

        Raises:
            AdapterError: no adapter, a damaged one, or one of another base.
        """
        file = path_argument("adapter", path)
        try:
            expect_name(file)
            found = file.stat()
        except OSError as error:
            raise AdapterError(f"adapter {file} cannot be read: {error.strerror}") from None
        key = (file.absolute(), found.st_ino, found.st_size, found.st_mtime_ns)
        adapter = self._open.pop(key, None)
        if adapter is None:
            adapter = RuntimeAdapter.open(file)
            adapter.expect_for(self._bundle)
        self._open[key] = adapter
        while len(self._open) > _KEPT:
            self._open.popitem(last=False)
        return adapter


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of tensors with their names, types and shapes, in hex."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.hexdigest()


def _map(path: Path) -> mmap.mmap:
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size < 8:
                raise AdapterError(f"{path} is no adapter: it is too short", hint=_AGAIN)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except IsADirectoryError:
        raise AdapterError(
            f"adapter {path} is a folder",
            hint="make a file of it: " + suggest("export", path, "--adapter-only", "--base", "BUNDLE"),
        ) from None
    except OSError as error:
        raise AdapterError(f"adapter {path} cannot be read: {error.strerror}") from None


def _header(path: Path, mapped: mmap.mmap) -> tuple[dict[str, Any], int]:
    """The header, and where the tensors begin."""
    length = int.from_bytes(mapped[:8], "little")
    if length > min(_LONGEST, len(mapped) - 8):
        raise AdapterError(f"{path} is no adapter, or truncated: its header is not there", hint=_AGAIN)
    try:
        header = json_value(mapped[8 : 8 + length])
        if not isinstance(header, dict):
            raise ValueError(header)
    except ValueError:
        raise AdapterError(f"{path} is no adapter: its header cannot be read", hint=_AGAIN) from None
    return header, 8 + length


def _facts(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    """What edgelm said about it; taken out of the header."""
    metadata = header.pop("__metadata__", None)
    try:
        facts: dict[str, Any] = dict(json_value(metadata[METADATA]))
        version = int(facts["format"])
    except (KeyError, TypeError, ValueError):
        raise AdapterError(
            f"{path} is not an adapter that edgelm exported",
            hint="edgelm export ADAPTER_FOLDER --adapter-only --base BUNDLE",
        ) from None
    if version > FORMAT:
        raise AdapterError(
            f"{path} has adapter format {version}, this edgelm reads up to {FORMAT}",
            hint="pip install --upgrade edgelm",
        )
    return facts


def _arrays(path: Path, header: Mapping[str, Any], mapped: mmap.mmap, start: int) -> Iterator[tuple[str, np.ndarray]]:
    for name, entry in header.items():
        try:
            dtype = np.dtype(_DTYPES[entry["dtype"]])
            shape = tuple(int(size) for size in entry["shape"])
            first, end = (int(offset) for offset in entry["data_offsets"])
            count = int(np.prod(shape, dtype=object))
            if min((first, *shape)) < 0 or end - first != count * dtype.itemsize or start + end > len(mapped):
                raise ValueError(name)
            yield name, np.frombuffer(mapped, dtype, count, start + first).reshape(shape)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise AdapterError(f"{path} is damaged: tensor '{name}' is not all there", hint=_AGAIN) from None
