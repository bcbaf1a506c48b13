"""Block scales chosen for the least squared error, instead of the first that fits. Needs no data."""

from __future__ import annotations

import numpy as np

from edgelm.exporter.quantize.rtn import block_extremes, pad_to_blocks, usable_inverse

# Multiples of the round-to-nearest scale that are tried. A smaller one clips the largest value and serves the
# others better; a larger one wastes a step at the end for a better fit in the middle.
_TRIALS = (1.0, 0.9, 1.1)
_CHUNK = 1 << 16  # values worked on at once: temporaries stay in the second-level cache


def search_blocks(weight: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Like `rtn.quantize_blocks`, with each block's scale refined by least squares.

    For every trial scale the values are rounded to codes q; the scale that fits those codes best is
    s = Σxq / Σq², which leaves the squared error Σx² - (Σxq)² / Σq². The trial with the least is kept.

    Args:
        weight: float32 [n, k]; padded with zeros to whole blocks.
        bits: 4 or 8.
        block: columns that share a scale; a power of two.

    Returns:
        codes: uint8 [n, blocks * block], 2^(b-1) standing for zero.
        scales: float32 [n, blocks].
    """
    values = pad_to_blocks(weight, block)
    n, blocks, _ = values.shape
    codes, scales = np.empty(values.shape, np.uint8), np.empty((n, blocks), np.float32)
    flat, flat_codes, flat_scales = values.reshape(-1, block), codes.reshape(-1, block), scales.reshape(-1)
    step = max(1, _CHUNK // block)
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        flat_codes[part], flat_scales[part] = _search(flat[part], 1 << (bits - 1))
    return codes.reshape(n, -1), scales


def _search(values: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes [m, block] and scales [m] of blocks [m, block]."""
    first = block_extremes(values) / np.float32(-half)
    best_gain = np.full(len(values), -1.0, np.float32)
    best_codes, best_scales = np.zeros_like(values), np.zeros_like(first)
    for trial in _TRIALS:
        _, inverse = usable_inverse(first * np.float32(trial))
        codes = values * inverse[:, None]
        np.rint(codes, out=codes)
        np.clip(codes, -half, half - 1, out=codes)
        with_values, squares = np.einsum("mk,mk->m", values, codes), np.einsum("mk,mk->m", codes, codes)
        fitted = np.divide(with_values, squares, out=np.zeros_like(first), where=squares > 0)
        gain = with_values * fitted
        better = gain > best_gain
        best_gain[better], best_scales[better] = gain[better], fitted[better]
        np.copyto(best_codes, codes, where=better[:, None])
    best_codes += half
    return best_codes.astype(np.uint8), best_scales
