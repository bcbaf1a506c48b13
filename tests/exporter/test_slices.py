"""Slices of a tensor are slices of the whole, however it is stored; what they are cut from is made once, and let go."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgelm.exporter.checkpoint.lora import LowRank, Merged
from edgelm.exporter.checkpoint.prequantized import PackedMatrix, Scheme
from edgelm.exporter.checkpoint.row_subset import PickedRows
from edgelm.exporter.checkpoint.tensors import Readable, Tensor, read_header

N, K = 40, 64
RANGES = [(3, 5), (0, 8), (38, 40), (7, 7), (0, N)]


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    rng, file = np.random.default_rng(0), tmp_path_factory.mktemp("tensors") / "model.safetensors"
    words = {"down.weight_packed": rng.integers(-(2**31), 2**31, (N, K // 8)).astype(np.int32)}
    floats = {"plain.weight": (N, K), "down.weight_scale": (N, K // 32), "a": (4, K), "b": (N, 4)}
    save_file(words | {name: rng.standard_normal(shape).astype(np.float32) for name, shape in floats.items()}, file)
    return read_header(file)


def packed(tensors: dict[str, Tensor]) -> PackedMatrix:
    return PackedMatrix(Scheme("compressed-tensors", 4, 32), "down", tensors)


def merged(base: Readable, tensors: dict[str, Tensor]) -> Merged:
    return Merged(base, LowRank(tensors["a"], tensors["b"], 0.5, transposed=False))


CASES: dict[str, Callable[[dict[str, Tensor]], Readable]] = {
    "plain": lambda t: t["plain.weight"],
    "packed": packed,
    "merged": lambda t: merged(t["plain.weight"], t),
    "packed and merged": lambda t: merged(packed(t), t),
}


@pytest.mark.parametrize("case", CASES)
def test_slices_are_of_the_whole(tensors: dict[str, Tensor], case: str) -> None:
    tensor = CASES[case](tensors)
    whole = tensor.read().reshape(N, K)
    assert whole.dtype == np.float32
    for (first, end), rows in zip(RANGES, tensor.slices(iter(RANGES)), strict=True):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, whole[first:end], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tensor.read(3 * K + 1, K), whole.ravel()[3 * K + 1 : 4 * K + 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_slices_of_picked_rows(tensors: dict[str, Tensor], case: str) -> None:
    tensor, rows = CASES[case](tensors), np.array([0, 1, 5, 20, 38])
    subset, whole = PickedRows(tensor, rows), tensor.read().reshape(N, K)[rows]
    ranges = [(1, 4), (0, 0), (0, 5)]
    for (first, end), found in zip(ranges, subset.slices(ranges), strict=True):
        np.testing.assert_allclose(found, whole[first:end], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(subset.read(), whole.ravel(), rtol=1e-5, atol=1e-6)


def test_a_packed_matrix_is_unpacked_once_and_let_go(
    tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[np.ndarray]] = []
    unpacked = PackedMatrix.dequantize

    def dequantize(self: PackedMatrix) -> np.ndarray:
        values = unpacked(self)
        made.append(weakref.ref(values))
        return values

    monkeypatch.setattr(PackedMatrix, "dequantize", dequantize)
    tensor, rows = packed(tensors), np.array([2, 30])  # not its last row
    for _ in range(2):
        total = sum(float(piece.sum()) for piece in PickedRows(tensor, rows).slices([(0, 1), (1, 2)]))
        assert total == pytest.approx(float(unpacked(tensor)[rows].sum()), rel=1e-4)
    assert len(made) == 2
    assert [ref() for ref in made] == [None, None]


def test_nothing_more_is_read_than_the_rows(tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int | None]] = []
    reading = Tensor.read

    def counted(self: Tensor, start: int = 0, count: int | None = None) -> np.ndarray:
        read.append((start, count))
        return reading(self, start, count)

    monkeypatch.setattr(Tensor, "read", counted)
    list(PickedRows(tensors["plain.weight"], np.array([4, 5])).slices([(0, 2)]))
    assert read == [(4 * K, 2 * K)]
