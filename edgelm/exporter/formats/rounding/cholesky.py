"""Cholesky factors, block by block: mostly products of matrices, while numpy's own function takes twice as long."""

from __future__ import annotations

from functools import partial

import numpy as np

from edgelm.exporter.formats.parallel import blocks, ordered_map

_BLOCK = 128  # columns that are factorised at once
_ROWS = 512  # of what is left that are brought up to date at once
_MUCH = 2048  # rows that are worth more than one core


def lower_factor(matrix: np.ndarray) -> np.ndarray:
    """The lower factor L [k, k] of ``A = L Lᵀ``; A is overwritten. Of what is not finite comes what is not finite.

    Raises:
        numpy.linalg.LinAlgError: it is not positive definite.
    """
    for block in blocks(len(matrix), _BLOCK):
        corner = np.linalg.cholesky(matrix[block, block])
        matrix[block, block], matrix[block, block.stop :] = corner, 0
        below = matrix[block.stop :, block] @ np.linalg.inv(corner).T
        matrix[block.stop :, block] = below
        update = partial(_subtract, matrix[block.stop :, block.stop :], below)
        parts = blocks(len(below), _ROWS)
        for _ in ordered_map(update, parts) if len(below) >= _MUCH else map(update, parts):
            pass
    return matrix


def _subtract(rest: np.ndarray, below: np.ndarray, part: slice) -> None:
    """Of some rows of what is left, what is known of them now; nothing of what is right of the diagonal is needed."""
    rest[part, : part.stop] -= below[part] @ below[: part.stop].T
