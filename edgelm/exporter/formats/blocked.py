"""Blocks of 4 or 8 bits along the rows, with a scale each: for products and for look-ups from the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgelm.exporter.checkpoint.prequantized import Codes
from edgelm.exporter.formats.format import Matrix
from edgelm.exporter.formats.parallel import ordered_map
from edgelm.exporter.formats.rounding.rtn import pack_nibbles, quantize_blocks
from edgelm.exporter.formats.rounding.search import search_blocks
from edgelm.exporter.onnx.builder import MICROSOFT, Builder
from edgelm.target.target import FormatSpec

_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level; without it 8-bit weights are unpacked anew at every call


@dataclass(frozen=True)
class Blocked:
    """4- or 8-bit blocks with a scale each, multiplied with int8 activations (MatMulNBits)."""

    bits: int
    block: int
    rounding: str | None = None  # nearest: scales are not searched

    @property
    def spec(self) -> FormatSpec:
        """The format as a recipe writes it."""
        return FormatSpec("MatMulNBits", self.bits, self.block, self.rounding)

    def fit(self, k: int) -> Blocked:
        """A block that divides `k`, so that rows can be looked up too; failing that, one that wastes little."""
        dividing = next((s for s in _halves(self.block) if k % s == 0), None)
        if dividing is not None and dividing * 2 >= min(self.block, k):
            return replace(self, block=dividing)
        return replace(self, block=next((s for s in _halves(self.block) if s < 2 * k), 16))

    def nbytes(self, n: int, k: int) -> int:
        """Codes, and a float scale a block."""
        blocks = -(-k // self.block)
        return n * blocks * (self.block * self.bits // 8 + 4)

    def can_gather(self, k: int) -> bool:
        """Only where rows need no padding: GatherBlockQuantized wants exactly k codes."""
        return k % self.block == 0

    def pack(self, b: Builder, name: str, n: int, k: int, rows: Iterable[np.ndarray]) -> Matrix:
        """Quantise slice by slice; the scales follow the codes."""
        return self.pack_rounded(b, name, n, k, ordered_map(self.round, rows))

    def round(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows [n, k] → (codes as the file holds them, uint8 [n, bytes], scales float32 [n, blocks])."""
        # At 8 bits the search finds next to nothing.
        quantize = search_blocks if self.bits == 4 and self.rounding is None else quantize_blocks
        codes, scales = quantize(rows, self.bits, self.block)
        return self.packed(codes), scales

    def packed(self, codes: np.ndarray) -> np.ndarray:
        """Codes, one a byte, as the file holds them."""
        return pack_nibbles(codes) if self.bits == 4 else codes

    def rounded(self, rows: np.ndarray) -> np.ndarray:
        """The steps of their blocks nearest to the rows."""
        return self.values(*self.round(rows), rows.shape[1])

    def values(self, packed: np.ndarray, scales: np.ndarray, k: int) -> np.ndarray:
        """The float32 rows [n, k] that codes and scales, as `round` gives them, stand for."""
        codes = np.stack([packed & 15, packed >> 4], axis=-1) if self.bits == 4 else packed
        steps = codes.reshape(*scales.shape, self.block).astype(np.float32) - np.float32(1 << (self.bits - 1))
        rows: np.ndarray = (steps * scales[:, :, None]).reshape(len(scales), -1)[:, :k]
        return rows

    def pack_rounded(
        self, b: Builder, name: str, n: int, k: int, pieces: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> Matrix:
        """Write a matrix that arrives in slices of rows, as `round` gives them."""
        blocks = -(-k // self.block)
        scales: list[np.ndarray] = []

        def codes() -> Iterable[np.ndarray]:
            for code, scale in pieces:
                scales.append(scale.astype(b.float))
                yield code

        width = self.block * self.bits // 8
        packed = b.data.append_rows(codes(), (n, blocks, width), np.uint8)
        return Matrix(self, name, n, k, {"qweight": packed, "scales": b.data.append_rows(scales, (n, blocks), b.float)})

    def pack_codes(self, b: Builder, name: str, pieces: Sequence[Codes]) -> Matrix:
        """Write codes that are there already, stacked by rows; nothing is rounded."""
        n, k = sum(len(piece.codes) for piece in pieces), pieces[0].codes.shape[1]
        codes = (pack_nibbles(p.codes) if self.bits == 4 else p.codes for p in pieces)
        parts = {
            "qweight": b.data.append_rows(codes, (n, k // self.block, self.block * self.bits // 8), np.uint8),
            "scales": b.data.append(np.concatenate([p.scales for p in pieces]).astype(b.float)),
        }
        zeros = np.concatenate([p.zeros for p in pieces])
        if (zeros != 1 << (self.bits - 1)).any():
            if self.bits == 4:
                zeros = pack_nibbles(np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2))))
            parts["zeros"] = b.data.append(zeros)
        return Matrix(self, name, n, k, parts)

    def matmul(self, b: Builder, x: ir.Value, m: Matrix, name: str, bias: ir.Value | None = None) -> ir.Value:
        """One MatMulNBits, the bias inside.

        Zero points are given only where a checkpoint has its own: they stand in the way of the fastest ARM kernels.
        """
        inputs: list[ir.Value | None] = [x, m.value(b, "qweight"), m.value(b, "scales")]
        inputs += [m.value(b, "zeros") if "zeros" in m.parts else None, None, bias]  # no g_idx
        while inputs[-1] is None:
            inputs.pop()
        return b.op(
            "MatMulNBits",
            inputs,
            name,
            domain=MICROSOFT,
            K=m.k,
            N=m.n,
            bits=self.bits,
            block_size=self.block,
            accuracy_level=_INT8_ACTIVATIONS,
        )

    def gather(self, b: Builder, ids: ir.Value, m: Matrix, name: str) -> ir.Value:
        """GatherBlockQuantized on the same bytes, seen as [n, k codes].

        Its zero points are written out: their default differs between providers.
        """
        if "zeros" in m.parts:
            zeros = m.value(b, "zeros")
        else:
            zero, blocks = (0x88 if self.bits == 4 else 0x80), m.k // self.block
            zeros = b.constant(f"{m.name}.zeros", np.full((m.n, -(-blocks * self.bits // 8)), zero, np.uint8))
        codes = m.value(b, "qweight", m.n, m.k * self.bits // 8, suffix=".rows")
        return b.op(
            "GatherBlockQuantized",
            [codes, ids, m.value(b, "scales"), zeros],
            name,
            domain=MICROSOFT,
            bits=self.bits,
            block_size=self.block,
            gather_axis=0,
            quantize_axis=1,
        )


def _halves(block: int) -> list[int]:
    return [size for size in (256, 128, 64, 32, 16) if size <= block]
