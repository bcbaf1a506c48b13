"""GPTQ against optimal brain quantisation done by hand: inverses of what is left, one column at a time."""

from __future__ import annotations

import numpy as np
import pytest

from edgelm.exporter.formats.rounding.gptq import DAMPING, block_order, factor, gptq_blocks
from edgelm.exporter.formats.rounding.grids import Blocks, block_grids
from edgelm.exporter.formats.rounding.search import search_blocks, search_zero_points


def inputs(tokens: int, k: int, seed: int = 0) -> np.ndarray:
    """Correlated inputs, some columns much larger than others."""
    generator = np.random.default_rng(seed)
    mixed = generator.standard_normal((tokens, k)) @ generator.standard_normal((k, k))
    return (mixed * np.exp(generator.standard_normal(k))).astype(np.float32)


def hessian(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = x.T @ x
    return found


def values(
    codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None = None, *, bits: int = 4, block: int = 32
) -> np.ndarray:
    zero = 1 << (bits - 1) if zeros is None else zeros.astype(np.float64).repeat(block, axis=1)
    return (codes.astype(np.float64) - zero) * scales.repeat(block, axis=1)


def by_hand(
    weight: np.ndarray, h: np.ndarray, order: np.ndarray, bits: int, block: int, *, zero_points: bool
) -> np.ndarray:
    """Rounded values [n, k]: each column's error is made up for by all columns left, with the inverse of what is left
    of H computed anew (Frantar et al., 2022, equations 2 and 3).
    """
    half, k = 1 << (bits - 1), len(h)
    damped = (h.astype(np.float64) + np.eye(k) * DAMPING * h.diagonal().mean())[np.ix_(order, order)]
    inverses = [np.linalg.inv(damped[j:, j:]) for j in range(k)]
    left, rounded = weight.astype(np.float64)[:, order].copy(), np.empty(weight.shape)
    for first in range(0, k, block):
        columns = range(first, first + block)
        importance = np.array([1 / inverses[j][0, 0] for j in columns], np.float32)
        grid = block_grids(
            left[:, first : first + block].T.astype(np.float32), importance, half, zero_points=zero_points
        )
        scales, zeros = grid[0], grid[1].astype(np.float64)
        for j in columns:
            steps = np.clip(np.rint(left[:, j] / scales) + zeros, 0, 2 * half - 1)
            rounded[:, j] = (steps - zeros) * scales
            error = (left[:, j] - rounded[:, j]) / inverses[j][0, 0]
            left[:, j:] -= error[:, None] * inverses[j][0]
    result = np.empty_like(rounded)
    result[:, order] = rounded
    return result


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize(("bits", "block", "k"), [(4, 16, 16), (4, 16, 64), (4, 32, 288), (8, 16, 48)])
def test_it_is_what_optimal_brain_quantisation_gives(bits: int, block: int, k: int, zero_points: bool) -> None:
    weight = np.random.default_rng(1).standard_normal((5, k), np.float32)
    h = hessian(inputs(4 * k, k))
    known = factor(h, block)
    assert known is not None
    found = values(*gptq_blocks(weight, bits, known, zero_points=zero_points), bits=bits, block=block)
    expected = by_hand(weight, h, known.order, bits, block, zero_points=zero_points)
    # A value halfway between two steps may fall either way, and all after it in its row then differ.
    same = np.isclose(found, expected, rtol=1e-3, atol=1e-4).all(axis=1)
    assert same.sum() >= 4


def test_products_lose_less_than_by_the_best_scales_alone() -> None:
    weight, x = np.random.default_rng(1).standard_normal((32, 128), np.float32), inputs(512, 128)
    known = factor(hessian(x), 32)
    assert known is not None

    def loss(blocks: Blocks) -> float:
        return float(np.square(x @ (values(*blocks) - weight).T).sum())

    by_search, by_data = loss(Blocks(*search_blocks(weight, 4, 32))), loss(gptq_blocks(weight, 4, known))
    assert by_data < 0.5 * by_search
    assert loss(search_zero_points(weight, 4, 32)) < by_search
    assert loss(gptq_blocks(weight, 4, known, zero_points=True)) < 0.95 * by_data


def test_slices_of_rows_give_what_the_whole_gives() -> None:
    weight = np.random.default_rng(1).standard_normal((10, 64), np.float32)
    known = factor(hessian(inputs(200, 64)), 32)
    assert known is not None
    whole, parts = gptq_blocks(weight, 4, known), [gptq_blocks(rows, 4, known) for rows in (weight[:3], weight[3:])]
    for i in range(2):
        np.testing.assert_allclose(np.concatenate([part[i] for part in parts]), whole[i], rtol=1e-5)


def test_a_last_block_that_is_not_full() -> None:
    weight = np.random.default_rng(1).standard_normal((4, 40), np.float32)
    known = factor(hessian(inputs(200, 40)), 32)
    assert known is not None
    codes, scales, _ = gptq_blocks(weight, 4, known)
    assert (codes.shape, scales.shape) == ((4, 64), (4, 2))
    assert np.abs(values(codes, scales)[:, :40] - weight).max() < 1
    assert (codes[:, 40:] == 8).all(), "padding stays zero"


def test_blocks_stay_whole_whatever_the_order() -> None:
    importance = np.random.default_rng(0).random(40)
    order = block_order(importance, 16)
    assert sorted(order) == list(range(48))
    blocks = order.reshape(-1, 16) // 16
    assert (blocks == blocks[:, :1]).all()
    first = importance[order[0]]
    assert first == importance.max()
    for block in order.reshape(-1, 16):
        there = importance[block[block < 40]]
        assert (np.diff(there) <= 0).all()


def test_inputs_that_say_nothing_have_no_factor() -> None:
    assert factor(np.zeros((32, 32), np.float32), 16) is None
    assert factor(np.full((32, 32), np.nan, np.float32), 16) is None


def test_fewer_tokens_than_columns_are_damped() -> None:
    known = factor(hessian(inputs(3, 64)), 32)
    assert known is not None
    codes, scales, _ = gptq_blocks(np.ones((2, 64), np.float32), 4, known)
    assert np.isfinite(scales).all()
    assert codes.shape == (2, 64)


def test_zeros_stay_zero() -> None:
    known = factor(hessian(inputs(100, 32)), 32)
    assert known is not None
    codes, scales, _ = gptq_blocks(np.zeros((2, 32), np.float32), 4, known)
    assert (codes == 8).all()
    assert (scales == 0).all()
    assert (values(*gptq_blocks(np.zeros((2, 32), np.float32), 4, known, zero_points=True)) == 0).all()


def test_values_far_from_zero_have_a_grid_from_zero() -> None:
    """All positive: without a zero point half of the codes would be lost."""
    weight = np.random.default_rng(1).uniform(0, 1, (8, 64)).astype(np.float32)
    found, plain = search_zero_points(weight, 4, 32), Blocks(*search_blocks(weight, 4, 32))
    assert np.square(values(*found) - weight).sum() < 0.4 * np.square(values(*plain) - weight).sum()
    assert found.zeros is not None
    assert (found.zeros <= 1).all()
