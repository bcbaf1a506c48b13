"""Block scales chosen for the least squared error, instead of the first that fits. Needs no data."""

from __future__ import annotations

import numpy as np

from edgelm.exporter.formats.rounding.grids import Blocks, block_grids
from edgelm.exporter.formats.rounding.rtn import CHUNK, block_extremes, blockwise, round_to, usable_inverse

# Multiples of the round-to-nearest scale that are tried. A smaller one clips the largest value and serves the
# others better; a larger one wastes a step at the end for a better fit in the middle.
_TRIALS = (1.0, 0.9, 1.1)


def search_blocks(weight: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Like `rtn.quantize_blocks`, with each block's scale refined by least squares.

    For every trial scale the values x are rounded to codes q; the scale that fits those codes best is
    s = Σxq / Σq², which leaves the squared error Σx² - (Σxq)² / Σq². The trial with the least is kept.
    """
    return blockwise(weight, bits, block, _search)


def search_zero_points(weight: np.ndarray, bits: int, block: int) -> Blocks:
    """The same with a zero point a block.

    Args:
        weight: float32 [n, k]; padded with zeros to whole blocks.
        bits: 4 or 8.
        block: columns that share a scale and a zero point; a power of two.
    """
    n, k = weight.shape
    padded = np.pad(weight, ((0, 0), (0, -k % block))).reshape(-1, block)
    codes, even = np.empty(padded.shape, np.uint8), np.ones(block, np.float32)
    scales, zeros = np.empty(len(padded), np.float32), np.empty(len(padded), np.uint8)
    step, half = max(1, CHUNK // block), 1 << (bits - 1)
    for start in range(0, len(padded), step):
        part = slice(start, start + step)
        values = np.ascontiguousarray(padded[part].T)
        scales[part], zeros[part] = block_grids(values, even, half, zero_points=True)
        _, inverse = usable_inverse(scales[part])
        codes[part] = np.clip(np.rint(values * inverse) + zeros[part].astype(np.float32), 0, 2 * half - 1).T
    return Blocks(codes.reshape(n, -1), scales.reshape(n, -1), zeros.reshape(n, -1))


def _search(values: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
    first = block_extremes(values) / np.float32(-half)
    best_gain = np.full(len(values), -1.0, np.float32)
    best_inverse, best_scales = np.zeros_like(first), np.zeros_like(first)
    codes = np.empty_like(values)
    for trial in _TRIALS:
        _, inverse = usable_inverse(first * np.float32(trial))
        round_to(values, inverse, half, codes)
        products, squares = np.einsum("mk,mk->m", values, codes), np.einsum("mk,mk->m", codes, codes)
        fitted = np.divide(products, squares, out=np.zeros_like(first), where=squares > 0)
        gain = products * fitted
        better = gain > best_gain
        for best, found in ((best_gain, gain), (best_inverse, inverse), (best_scales, fitted)):
            np.copyto(best, found, where=better)
    return round_to(values, best_inverse, half, codes), best_scales
