"""Round to nearest: every value to the closest step of its block's scale. Needs no data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_SMALLEST_SCALE = np.float32(1e-30)  # the inverse of a smaller one is not far from overflowing
CHUNK = 1 << 17  # values worked on at once: temporaries stay in the second-level cache

Kernel = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


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
    return blockwise(weight, bits, block, _nearest)


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


def blockwise(weight: np.ndarray, bits: int, block: int, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """Run a kernel, (blocks [m, block], 2^(b-1)) → (signed codes [m, block], scales [m]), over a matrix in pieces.

    Returns:
        what `quantize_blocks` returns.
    """
    n, k = weight.shape
    if missing := -k % block:
        weight = np.pad(weight, ((0, 0), (0, missing)))
    values, half = weight.reshape(-1, block), 1 << (bits - 1)
    codes, scales = np.empty(values.shape, np.uint8), np.empty(len(values), np.float32)
    step = max(1, CHUNK // block)
    for start in range(0, len(values), step):
        part = slice(start, start + step)
        signed, scales[part] = kernel(values[part], half)
        signed += half
        codes[part] = signed
    return codes.reshape(n, -1), scales.reshape(n, -1)


def round_to(values: np.ndarray, inverse: np.ndarray, half: int, codes: np.ndarray) -> np.ndarray:
    """Write the nearest codes -half … half-1 of blocks [m, block] under inverse scales [m] into `codes`."""
    np.multiply(values, inverse[:, None], out=codes)
    np.rint(codes, out=codes)
    return np.clip(codes, -half, half - 1, out=codes)


def block_extremes(values: np.ndarray) -> np.ndarray:
    """The value of largest magnitude of every block, sign included: [m, block] → [m]."""
    # numpy reduces the first axis of a transposed copy several times faster than a short last axis.
    columns = np.ascontiguousarray(values.T)
    high, low = columns.max(axis=0), columns.min(axis=0)
    extremes: np.ndarray = np.where(high > -low, high, low)
    return extremes


def usable_inverse(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and their inverses; where all weights are next to nothing, both are zero."""
    usable = np.abs(scales) > _SMALLEST_SCALE
    return np.where(usable, scales, np.float32(0)), np.divide(1.0, scales, out=np.zeros_like(scales), where=usable)


def pack_nibbles(codes: np.ndarray) -> np.ndarray:
    """Two 4-bit codes a byte, the first in the low half: uint8 [..., k] → uint8 [..., k/2]."""
    packed: np.ndarray = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return packed


def _nearest(values: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
    scales, inverse = usable_inverse(block_extremes(values) / np.float32(-half))
    return round_to(values, inverse, half, np.empty_like(values)), scales
