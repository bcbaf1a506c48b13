"""Round to nearest: every value to the closest step of its block's scale. Needs no data."""

from __future__ import annotations

import numpy as np

_SMALLEST_SCALE = np.float32(1e-30)  # the inverse of a smaller one is not far from overflowing


def quantize_blocks(weight: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric blocks along the columns, the full range -2^(b-1) … 2^(b-1)-1 used.

    The value of largest magnitude keeps its sign and lands on the lowest step, as in llama.cpp's Q4_0:
    scale = that value / -2^(b-1).

    Args:
        weight: float32 [n, k]; padded with zeros to whole blocks.
        bits: 4 or 8.
        block: columns that share a scale; a power of two.

    Returns:
        codes: uint8 [n, blocks * block], 2^(b-1) standing for zero.
        scales: float32 [n, blocks].
    """
    values, half = pad_to_blocks(weight, block), 1 << (bits - 1)
    scales, inverse = usable_inverse(block_extremes(values) / np.float32(-half))
    steps = values * inverse[:, :, None]
    steps += np.float32(half + 0.5)  # floor(x + 1/2 + half): nearest, shifted to be positive
    np.clip(steps, 0, 2 * half - 1, out=steps)
    return steps.astype(np.uint8).reshape(len(weight), -1), scales


def quantize_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8, one scale a row: scale = largest magnitude / 127.

    Args:
        weight: float32 [n, k].

    Returns:
        codes: int8 [n, k] in -127 … 127.
        scales: float32 [n].
    """
    scales, inverse = usable_inverse(np.maximum(weight.max(axis=1), -weight.min(axis=1)) / np.float32(127))
    return np.rint(weight * inverse[:, None]).astype(np.int8), scales


def pack_nibbles(codes: np.ndarray) -> np.ndarray:
    """Two 4-bit codes a byte, the first in the low half: uint8 [..., k] → uint8 [..., k/2]."""
    packed: np.ndarray = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return packed


def pad_to_blocks(weight: np.ndarray, block: int) -> np.ndarray:
    """[n, k] → [n, blocks, block], zeros at the end of each row where k is no multiple."""
    n, k = weight.shape
    if missing := -k % block:
        weight = np.pad(weight, ((0, 0), (0, missing)))
    return weight.reshape(n, -1, block)


def block_extremes(values: np.ndarray) -> np.ndarray:
    """The value of largest magnitude along the last axis, sign included."""
    high, low = _fold(np.maximum, values), _fold(np.minimum, values)
    extremes: np.ndarray = np.where(high > -low, high, low)
    return extremes


def usable_inverse(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and their inverses; where all weights are next to nothing, both are zero."""
    usable = np.abs(scales) > _SMALLEST_SCALE
    return np.where(usable, scales, np.float32(0)), np.divide(1.0, scales, out=np.zeros_like(scales), where=usable)


def _fold(combine: np.ufunc, values: np.ndarray) -> np.ndarray:
    """Reduce the last axis (a power of two long) by halving it: vectorises where a reduction of 32 does not."""
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        values = combine(values[..., :half], values[..., half:])
    return values[..., 0]
