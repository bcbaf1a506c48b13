"""GPTQ (Frantar et al., 2022, arXiv:2210.17323): every column is rounded so that it makes up for those before it.

The error of a product ``x Wᵀ`` over calibration inputs X is, for a row w rounded to q and e = w - q, ``e H eᵀ`` with
``H = Xᵀ X``. With ``H = R Rᵀ``, R upper triangular, that is

    Σ_j (e_j R_jj + Σ_{i<j} e_i R_ij)²

so that, from the first column to the last, the best q_j is the step nearest to ``w_j + Σ_{i<j} e_i R_ij / R_jj``. This
is GPTQ's update without the inverse of H: Babai's nearest plane (Chen et al., 2025, arXiv:2507.18553). Columns are
worked on in panels; what earlier panels add is one matrix product (the paper's lazy batches).

Scales belong to blocks of neighbouring columns, since MatMulNBits knows no other. The paper's activation order is
kept within that: whole blocks are taken from the largest of their diagonal entries of H to the smallest, and so are
the columns within a block. Only the order of work changes, not where a column lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgelm.exporter.formats.rounding.cholesky import lower_factor
from edgelm.exporter.formats.rounding.grids import Blocks, block_grids
from edgelm.exporter.formats.rounding.rtn import usable_inverse

DAMPING = 0.01  # of the mean diagonal, added to the diagonal of H, as in the paper
_DAMPINGS = (1.0, 10.0, 100.0)  # times it, where rounding leaves H not positive definite
_PANEL = 128  # columns between two products with what was rounded before
_NEAR = 16  # of these, columns between two products within the panel


@dataclass(frozen=True)
class Factor:
    """What GPTQ needs of a Hessian.

    Attributes:
        upper: R, float32 [k, k], of the columns in `order`, ``H = R Rᵀ``.
        order: the column of the matrix that is taken j-th [k].
        block: columns that share a scale; whole blocks follow each other in `order`.
    """

    upper: np.ndarray
    order: np.ndarray
    block: int


def factor(hessian: np.ndarray, block: int, damping: float = DAMPING) -> Factor | None:
    """Order and factorise a Hessian [k, k]; None where it says nothing (zero, not finite, not positive definite).

    Columns beyond k that pad the last block are added: no input ever reads them.
    """
    k = len(hessian)
    diagonal = hessian.diagonal().astype(np.float64)
    mean = float(diagonal.mean())
    if not np.isfinite(mean) or mean <= 0:
        return None
    order = block_order(diagonal, block)
    padded = np.zeros((len(order), len(order)), np.float32)
    padded[:k, :k] = hessian
    every, turned = np.arange(len(order)), order[::-1]
    for times in _DAMPINGS:
        # What factorises gives the lower factor: turned round, before and after, it is the upper one.
        wanted = padded[np.ix_(turned, turned)]
        wanted[every, every] += np.float32(times * damping * mean)
        try:
            upper = lower_factor(wanted)[::-1, ::-1]
        except np.linalg.LinAlgError:
            continue
        if np.isfinite(upper).all():
            return Factor(np.ascontiguousarray(upper), order, block)
    return None


def block_order(importance: np.ndarray, block: int) -> np.ndarray:
    """Columns in the order of work: blocks by their largest importance, then columns by theirs, largest first.

    Args:
        importance: of each column [k].
        block: columns of a block.

    Returns:
        a permutation of the columns, those that pad the last block included.
    """
    padded = np.pad(importance, (0, -len(importance) % block), constant_values=-1.0).reshape(-1, block)
    blocks = np.argsort(-padded.max(axis=1), kind="stable")
    within = np.argsort(-padded, axis=1, kind="stable")
    order: np.ndarray = (blocks[:, None] * block + within[blocks]).ravel()
    return order


def gptq_blocks(weight: np.ndarray, bits: int, factor: Factor, *, zero_points: bool = False) -> Blocks:
    """Quantise rows of a matrix; rows do not depend on each other, so a matrix may come in slices.

    Args:
        weight: float32 [n, k].
        bits: 4 or 8.
        factor: of the Hessian of the matrix' inputs.
        zero_points: whether blocks have one of their own each.
    """
    n, k = weight.shape
    order, block, half = factor.order, factor.block, 1 << (bits - 1)
    width = len(order)
    values = np.pad(weight, ((0, 0), (0, width - k)))[:, order].T.copy()  # [width, n]: columns are taken one by one
    errors = np.zeros_like(values)
    codes = np.empty((width, n), np.uint8)
    scales, zeros = np.empty((width // block, n), np.float32), np.empty((width // block, n), np.uint8)
    panel = max(block, _PANEL)
    for start in range(0, width, panel):
        end = min(start + panel, width)
        carried = factor.upper[:start, start:end].T @ errors[:start]  # Σ e_i R_ij of the panels before
        for first in range(start, end, block):
            local, place = slice(first, first + block), order[first] // block
            pending = carried[first - start : first - start + block]
            pending += factor.upper[start:first, local].T @ errors[start:first]
            upper = factor.upper[local, local]
            # Where all of the block could be any value, this would leave no error: what its grid should suit.
            wanted = values[local] + np.linalg.inv(upper).T @ pending
            scales[place], zeros[place] = block_grids(
                wanted, np.square(upper.diagonal()), half, zero_points=zero_points
            )
            zero = zeros[place].astype(np.float32)
            limits = -zero, np.float32(2 * half - 1) - zero
            steps, errors[local] = _rounded(values[local], pending, upper, scales[place], limits)
            codes[local] = steps + zero
    result = np.empty_like(codes)
    result[order] = codes
    return Blocks(
        np.ascontiguousarray(result.T),
        np.ascontiguousarray(scales.T),
        np.ascontiguousarray(zeros.T) if zero_points else None,
    )


def gptq_rows(weight: np.ndarray, factor: Factor) -> tuple[np.ndarray, np.ndarray]:
    """The same for one scale a row, that of its largest magnitude: at 8 bits what is gained is in the codes.

    Args:
        weight: float32 [n, k].
        factor: of the Hessian of the matrix' inputs, in blocks of 1.

    Returns:
        codes: int8 [n, k] in -127 … 127.
        scales: float32 [n].
    """
    n, width = weight.shape
    values, upper = weight[:, factor.order].T.copy(), factor.upper
    scales = usable_inverse(np.abs(weight).max(axis=1) / np.float32(127))[0]
    errors, codes = np.empty_like(values), np.empty((width, n), np.int8)
    for start in range(0, width, _PANEL):
        local = slice(start, min(start + _PANEL, width))
        carried = upper[:start, local].T @ errors[:start]
        limits = np.float32(-127), np.float32(127)
        codes[local], errors[local] = _rounded(values[local], carried, upper[local, local], scales, limits)
    result = np.empty_like(codes)
    result[factor.order] = codes
    return np.ascontiguousarray(result.T), scales


def _rounded(
    values: np.ndarray,
    pending: np.ndarray,
    upper: np.ndarray,
    scales: np.ndarray,
    limits: tuple[np.ndarray | np.float32, np.ndarray | np.float32],
) -> tuple[np.ndarray, np.ndarray]:
    """Steps within the limits [n], and errors, of columns that follow each other [columns, n], given what those before
    them left (`pending`).
    """
    scales, inverse = usable_inverse(scales)
    shares, wanted = upper / upper.diagonal(), values + pending / upper.diagonal()[:, None]
    steps, errors = np.empty_like(values), np.empty_like(values)
    for first in range(0, len(values), _NEAR):
        near = slice(first, first + _NEAR)
        if first:
            wanted[near] += shares[:first, near].T @ errors[:first]
        for j in range(first, min(first + _NEAR, len(values))):
            if j > first:
                wanted[j] += np.einsum("i,in->n", shares[first:j, j], errors[first:j])
            step, error = steps[j], errors[j]
            np.multiply(wanted[j], inverse, out=step)
            np.rint(step, out=step)
            np.maximum(step, limits[0], out=step)
            np.minimum(step, limits[1], out=step)
            np.multiply(step, scales, out=error)
            np.subtract(values[j], error, out=error)
    return steps, errors
