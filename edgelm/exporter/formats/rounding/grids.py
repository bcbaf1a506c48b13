"""The grid of steps that suits a block of weights: its scale and, where it may have one, its zero point."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from edgelm.exporter.formats.rounding.rtn import usable_inverse

_TRIALS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 1.05, 1.1)  # multiples of the scale that fits the largest value
_NARROWER = (1.0, 0.93, 0.86, 0.79, 0.72)  # shares of a block's range that are tried where it has a zero point
_SYMMETRIC = (1.0, 0.9)  # of `_TRIALS` that are tried beside these
_COARSE = 8  # steps either side of zero, of which another scale may serve better: of 128, hardly
_COLUMNS = 1024  # blocks worked on at once: temporaries stay in the second-level cache


class Blocks(NamedTuple):
    """A matrix in blocks.

    Attributes:
        codes: uint8 [n, blocks * block].
        scales: float32 [n, blocks].
        zeros: the code of zero, uint8 [n, blocks]; None where it is 2^(bits-1) everywhere.
    """

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None = None


def block_grids(
    values: np.ndarray, weights: np.ndarray, half: int, *, zero_points: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """For each column of `values` [block, n] the grid with the least ``Σ weights (x - s (q - z))²`` of those tried.

    Every trial's values are rounded to codes q; the scale that fits those best, s = Σ w x (q - z) / Σ w (q - z)², leaves
    the least error.

    Args:
        values: what is to be rounded.
        weights: of the rows of `values` [block].
        half: codes are 0 … 2 half - 1.
        zero_points: whether the code of zero may be another one than `half`.

    Returns:
        scales float32 [n], codes of zero uint8 [n].
    """
    scales, zeros = np.empty(values.shape[1], np.float32), np.empty(values.shape[1], np.uint8)
    for start in range(0, values.shape[1], _COLUMNS):
        part = slice(start, start + _COLUMNS)
        scales[part], zeros[part] = _grids(values[:, part], weights, half, zero_points=zero_points)
    return scales, zeros


def _grids(values: np.ndarray, weights: np.ndarray, half: int, *, zero_points: bool) -> tuple[np.ndarray, np.ndarray]:
    scales, zeros = np.zeros(values.shape[1], np.float32), np.full(values.shape[1], half, np.uint8)
    best_gain = np.full(values.shape[1], -1.0, np.float32)
    weighted = values * weights[:, None]
    codes, work = np.empty_like(weighted), np.empty_like(weighted)
    for inverse, zero in _trials(values, half, zero_points=zero_points):
        np.multiply(values, inverse, out=codes)
        np.rint(codes, out=codes)
        np.maximum(codes, -zero, out=codes)  # np.clip with limits of each column takes three times as long
        np.minimum(codes, np.float32(2 * half - 1) - zero, out=codes)
        products = np.einsum("bn,bn->n", weighted, codes)
        np.multiply(codes, weights[:, None], out=work)
        squares = np.einsum("bn,bn->n", work, codes)  # three factors in one take longer
        fitted = np.divide(products, squares, out=np.zeros_like(scales), where=squares > 0)
        gain = products * fitted
        better = gain > best_gain
        np.copyto(best_gain, gain, where=better)
        np.copyto(scales, fitted, where=better)
        np.copyto(zeros, zero, where=better, casting="unsafe")
    return scales, zeros


def _trials(
    values: np.ndarray, half: int, *, zero_points: bool
) -> Iterator[tuple[np.ndarray, np.ndarray | np.float32]]:
    """(Inverse scales [n], codes of zero) to try."""
    high, low = values.max(axis=0), values.min(axis=0)
    first = np.where(high > -low, high, low) / np.float32(-half)
    tried = _SYMMETRIC if zero_points else _TRIALS
    for trial in tried if half <= _COARSE else tried[:1]:
        yield usable_inverse(first * np.float32(trial))[1], np.float32(half)
    if not zero_points:
        return
    high, low = np.maximum(high, 0), np.minimum(low, 0)
    for share in _NARROWER:
        _, inverse = usable_inverse((high - low) * np.float32(share / (2 * half - 1)))
        middle = (high + low) / 2 * inverse
        yield inverse, np.clip(np.rint(half - 0.5 - middle), 0, 2 * half - 1)
