"""How GGUF stores numbers: element types in blocks, dequantised by the `gguf` package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgelm.errors import DependencyError


@dataclass(frozen=True)
class BlockType:
    """An element type.

    Attributes:
        name: as llama.cpp prints it: ``F16``, ``Q4_K`` …
        size: values of a block.
        bytes: of a block.
    """

    name: str
    size: int
    bytes: int

    @property
    def bits(self) -> float:
        """Bits a value, the block's scales counted."""
        return 8 * self.bytes / self.size


_CHUNK = 1 << 17  # values dequantised at once: temporaries stay in the second-level cache

_FLOATS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8")}


def block_type(number: int) -> BlockType:
    """The element type with this number in a file; ValueError, which names it, where it cannot be read as floats."""
    package = _package()
    try:
        kind = package.GGMLQuantizationType(number)
    except ValueError:
        raise ValueError(f"type {number}") from None
    size, length = package.GGML_QUANT_SIZES[kind]
    if kind.name not in _FLOATS and kind not in package.quants._type_traits:
        raise ValueError(kind.name)
    return BlockType(kind.name, size, length)


def dequantize(kind: BlockType, data: np.ndarray) -> np.ndarray:
    """Values of whole blocks, float32 [n], from their bytes, uint8 [n / size * bytes]."""
    if kind.name in _FLOATS:
        return data.view(_FLOATS[kind.name]).astype(np.float32, copy=False)
    package = _package()
    number = package.GGMLQuantizationType[kind.name]
    step = max(1, _CHUNK // kind.size) * kind.bytes
    values = np.empty(len(data) // kind.bytes * kind.size, np.float32)
    # The package works on sixteen rows at a time: blocks are given as one long row, as many as the cache holds.
    for start in range(0, len(data), step):
        part = package.quants.dequantize(data[start : start + step][None], number)[0]
        first = start // kind.bytes * kind.size
        values[first : first + len(part)] = part
    return values


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise DependencyError("a GGUF file needs the gguf package", hint="pip install 'edgelm[export]'") from None
    return gguf
