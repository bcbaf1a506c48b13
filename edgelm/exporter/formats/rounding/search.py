"""Block scales chosen for the least squared error, instead of the first that fits. Needs no data."""

from __future__ import annotations

import numpy as np

from edgelm.exporter.formats.rounding.rtn import block_extremes, blockwise, round_to, usable_inverse

# Multiples of the round-to-nearest scale that are tried. A smaller one clips the largest value and serves the
# others better; a larger one wastes a step at the end for a better fit in the middle.
_TRIALS = (1.0, 0.9, 1.1)


def search_blocks(weight: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Like `rtn.quantize_blocks`, with each block's scale refined by least squares.

    For every trial scale the values x are rounded to codes q; the scale that fits those codes best is
    s = Σxq / Σq², which leaves the squared error Σx² - (Σxq)² / Σq². The trial with the least is kept.
    """
    return blockwise(weight, bits, block, _search)


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
