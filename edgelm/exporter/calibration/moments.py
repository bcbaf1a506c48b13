"""What a text says of a matrix' inputs: ``Xᵀ X``, and what they have lost to the rounding of matrices before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgelm.exporter.formats.parallel import ordered_map, slices
from edgelm.exporter.formats.rounding.cholesky import lower_factor

ENOUGH = 3  # tokens for each column, to tell what has been lost
_LOUDER = 4.0  # that a token's inputs are made at most
_TOKENS = 2048  # whose inputs are weighed at once
_WIDE = 4096  # columns whose sums are not held several times over
_BLOCK = 128  # columns that are solved for at once
_DAMPING = 0.5  # of the mean diagonal of ``Xᵀ X``: what is found must hold for other texts, too


def hessian(inputs: np.ndarray) -> np.ndarray:
    """``Xᵀ X`` [k, k] of inputs [tokens, k], all of which count about the same.

    A few tokens, the first one of a text above all, have activations hundreds of times as large as the others. As they
    are, the sum is theirs alone, and a matrix is rounded for them; but what is after a matrix norms every token by
    itself. So each is brought to the same mean square, small ones to `_LOUDER` times their size at most.
    """
    shares = _shares(inputs)
    return _sum(inputs, shares) if inputs.shape[1] <= _WIDE else _by_columns(inputs * shares)


@dataclass
class Correction:
    """What makes up, as far as a matrix can, for inputs X that are no longer the `exact` ones X̃.

    ``W + W C`` gives on X what W gives on X̃, by least squares with a damped ``H = Xᵀ X``: ``C = (X̃ - X)ᵀ X H⁻¹`` (GPTAQ,
    Li et al., 2025, arXiv:2504.02692). Of few tokens, much of what least squares finds is chance: C is made smaller by
    the share that would be, k / tokens.

    Attributes:
        inputs: X, float32 [tokens, k].
        exact: X̃, of the same tokens.
        lower: the lower Cholesky factor of the damped H.
    """

    inputs: np.ndarray
    exact: np.ndarray
    lower: np.ndarray
    _whole: np.ndarray | None = None

    def of(self, rows: np.ndarray) -> np.ndarray:
        """``W C`` of rows [n, k] of a matrix; zeros where nothing could be told."""
        tokens, k = self.inputs.shape
        few = 2 * tokens * len(rows) < tokens * k + k * k  # less work with them than without
        if few and self._whole is None:
            found = self._found(rows)
        else:
            whole = self._whole = self._found(None) if self._whole is None else self._whole
            found = _by_rows(lambda part: part @ whole, rows)
        return found if np.isfinite(found).all() else np.zeros_like(rows)

    def _found(self, rows: np.ndarray | None) -> np.ndarray:
        """``W C``, or C where there are no rows."""
        tokens, k = self.inputs.shape
        lost = _sum(self.inputs, _shares(self.inputs), self.exact, rows)
        found = _by_rows(_Solver(self.lower), lost)
        found *= np.float32(1 - k / tokens)
        return found


def correction(inputs: np.ndarray, exact: np.ndarray, hessian: np.ndarray) -> Correction | None:
    """What makes up for inputs X [tokens, k] that are no longer the `exact` ones, by the Hessian of X; None where there is
    nothing that could be told.
    """
    tokens, k = inputs.shape
    mean = float(hessian.diagonal().mean())
    if tokens < ENOUGH * k or not mean > 0 or not np.isfinite(mean):
        return None
    try:
        lower = lower_factor(hessian + np.float32(_DAMPING * mean) * np.eye(k, dtype=np.float32))
    except np.linalg.LinAlgError:
        return None
    return Correction(inputs, exact, lower)


def _by_rows(work: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """``work(rows)`` [n, k], by slices of the rows."""
    return np.concatenate(list(ordered_map(work, (rows[part] for part in slices(len(rows))))))


class _Solver:
    """``B A⁻¹`` of rows B [n, k] with ``A = L Lᵀ`` [k, k], block by block: numpy's own solver takes three times as long."""

    def __init__(self, lower: np.ndarray) -> None:
        self.lower, self.blocks = lower, slices(len(lower), _BLOCK)
        self.inverses = [np.linalg.inv(lower[block, block]) for block in self.blocks]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """``B A⁻¹``."""
        found, lower, steps = rows.T.copy(), self.lower, list(zip(self.blocks, self.inverses, strict=True))
        for block, inverse in steps:
            found[block] = inverse @ (found[block] - lower[block, : block.start] @ found[: block.start])
        for block, inverse in reversed(steps):
            found[block] = inverse.T @ (found[block] - lower[block.stop :, block].T @ found[block.stop :])
        return found.T


def _shares(inputs: np.ndarray) -> np.ndarray:
    """What each token is multiplied with [tokens, 1]."""
    square = np.einsum("tk,tk->t", inputs, inputs)
    typical = np.median(square)
    share = np.sqrt(typical / np.maximum(square, typical / _LOUDER**2)) if typical > 0 else np.ones_like(square)
    shares: np.ndarray = share[:, None]
    return shares


def _by_columns(weighed: np.ndarray) -> np.ndarray:
    """``Xᵀ X`` [k, k], some columns at a time, what is right of the diagonal alone."""
    width = weighed.shape[1]
    found = np.empty((width, width), np.float32)

    def some(part: slice) -> None:
        found[part, part.start :] = weighed[:, part].T @ weighed[:, part.start :]
        found[part.stop :, part] = found[part, part.stop :].T

    for _ in ordered_map(some, slices(width)):
        pass
    return found


def _sum(
    inputs: np.ndarray, shares: np.ndarray, exact: np.ndarray | None = None, rows: np.ndarray | None = None
) -> np.ndarray:
    """``Xᵀ X`` [k, k] of inputs [tokens, k] with their shares, or ``(X̃ - X)ᵀ X``, or ``W (X̃ - X)ᵀ X`` of rows W [n, k]."""

    def some(part: slice) -> np.ndarray:
        weighed = inputs[part] * shares[part]
        # The product of a matrix with itself takes half the time.
        left = weighed if exact is None else exact[part] * shares[part] - weighed
        product: np.ndarray = (left if rows is None else left @ rows.T).T @ weighed
        return product

    width = inputs.shape[1]
    found: np.ndarray = np.zeros((width if rows is None else len(rows), width), np.float32)
    for product in ordered_map(some, slices(len(inputs), _TOKENS)):
        found += product
    return found
