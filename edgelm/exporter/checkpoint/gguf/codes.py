"""Codes of those GGUF types whose values are a whole number times their block's scale.

Layouts as in ggml's ggml-common.h and its dequantize_row functions (https://github.com/ggml-org/ggml). The others add a
minimum to a block (Q4_1, Q4_K …), which no whole zero point says, or are looked up in grids.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgelm.exporter.checkpoint.codes import Codes, CodeType

_Unpack = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Blocks uint8 [m, bytes] → (whole numbers int8 [m, values], scales float32 [m, scales])."""

_IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


def code_type(name: str) -> CodeType | None:
    """How codes of an element type could be held; None where they cannot."""
    return _KNOWN[name][0] if name in _KNOWN else None


def unpack(name: str, blocks: np.ndarray, shape: tuple[int, int]) -> Codes:
    """The codes of rows [m, k] from their blocks, uint8 [blocks, bytes]."""
    known, unpacked = _KNOWN[name]
    whole, scales = unpacked(blocks)
    middle = 1 << (known.bits - 1)
    codes = (whole.reshape(shape).astype(np.int16) + middle).astype(np.uint8)
    scales = scales.reshape(shape[0], -1)
    return Codes(known.bits, known.block, codes, scales, np.full(scales.shape, middle, np.uint8))


def _scale(blocks: np.ndarray, start: int) -> np.ndarray:
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """The low halves of all bytes, then the high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _q4_0(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _nibbles(blocks[:, 2:]).astype(np.int8) - np.int8(8), _scale(blocks, 0)


def _q5_0(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fifth = np.unpackbits(np.ascontiguousarray(blocks[:, 2:6]), axis=1, bitorder="little")
    return (_nibbles(blocks[:, 6:]) | (fifth << 4)).astype(np.int8) - np.int8(16), _scale(blocks, 0)


def _q8_0(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(blocks[:, 2:]).view(np.int8), _scale(blocks, 0)


def _iq4_nl(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _IQ4_NL[_nibbles(blocks[:, 2:])], _scale(blocks, 0)


def _q6_k(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = blocks[:, :128].reshape(-1, 2, 64), blocks[:, 128:192].reshape(-1, 2, 1, 32)
    high = (high >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & 3
    codes = _nibbles(low).reshape(len(blocks), 2, 4, 32) | (high << 4)
    factors = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return codes.reshape(len(blocks), 256).astype(np.int8) - np.int8(32), _scale(blocks, 208) * factors


_KNOWN: dict[str, tuple[CodeType, _Unpack]] = {
    "Q4_0": (CodeType("Q4_0", 4, 32), _q4_0),
    "Q5_0": (CodeType("Q5_0", 8, 32), _q5_0),
    "Q8_0": (CodeType("Q8_0", 8, 32), _q8_0),
    "Q6_K": (CodeType("Q6_K", 8, 16, half=False), _q6_k),
    "IQ4_NL": (CodeType("IQ4_NL", 8, 32), _iq4_nl),
}
