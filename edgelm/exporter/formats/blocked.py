"""Blocks of 4 or 8 bits along the rows, with a scale each: for products and for look-ups from the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import onnx_ir as ir

from edgelm.exporter.checkpoint.codes import Codes, CodeType
from edgelm.exporter.checkpoint.prequantized import Scheme
from edgelm.exporter.formats.format import Format, Matrix, Parts, append_parts
from edgelm.exporter.formats.rounding.gptq import factor, gptq_blocks
from edgelm.exporter.formats.rounding.rtn import pack_nibbles, quantize_blocks
from edgelm.exporter.formats.rounding.search import search_blocks, search_zero_points
from edgelm.exporter.onnx.builder import MICROSOFT, Builder
from edgelm.target.operators import BLOCKS
from edgelm.target.target import FormatSpec, Target

_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level; without it 8-bit weights are unpacked anew at every call

# Bits that a block of MatMulNBits takes in memory beyond its codes. x86-64: three floats (the scale as stored, as
# packed, and the sum of the block's codes), so 7.0, 5.5, 4.75 bits a weight at 4 bits and blocks of 32, 64, 128,
# measured. ARM with dot products: KleidiAI keeps 16 (4.5 bits at 32). Without them nothing is packed: a float scale.
_BLOCK_BITS = {"x86_64": 96, "aarch64": 16}
_UNPACKED_BLOCK_BITS = 32
_HALF_MOST = np.finfo(np.float16).max


@dataclass(frozen=True)
class Blocked(Format):
    """4- or 8-bit blocks with a scale each, multiplied with int8 activations (MatMulNBits).

    Attributes:
        zero_points: whether a block has a code of its own for zero, so that a range that is not even about zero is used
            to its ends.
        half_scales: whether the file has scales as float16 although activations are float32. They are widened when the
            model is loaded, before kernels pack them: that costs nothing but the file's bytes are fewer.
    """

    bits: int
    block: int
    rounding: str | None = None  # nearest: scales are not searched
    zero_points: bool = False
    half_scales: bool = False

    @classmethod
    def of(cls, spec: FormatSpec) -> Self | None:
        """A matrix to multiply or to look up."""
        blocked = spec.op in ("MatMulNBits", "GatherBlockQuantized")
        if not blocked:
            return None
        return cls(spec.bits, spec.block or 32, spec.rounding, bool(spec.zero_points), bool(spec.half_scales))

    @property
    def spec(self) -> FormatSpec:
        """The format as a recipe writes it."""
        flags = self.zero_points or None, self.half_scales or None
        return FormatSpec("MatMulNBits", self.bits, self.block, self.rounding, *flags)

    def fit(self, k: int) -> Self:
        """A block that divides `k`, so that rows can be looked up too; failing that, one that wastes little."""
        dividing = next((s for s in _halves(self.block) if k % s == 0), None)
        if dividing is not None and dividing * 2 >= min(self.block, k):
            return replace(self, block=dividing)
        return replace(self, block=next((s for s in _halves(self.block) if s < 2 * k), BLOCKS[0]))

    def can_gather(self, k: int) -> bool:
        """Only where rows need no padding: GatherBlockQuantized wants exactly k codes."""
        return k % self.block == 0

    def resident_bytes(self, n: int, k: int, target: Target, itemsize: int) -> int:
        """On a CPU as its kernels lay the blocks out."""
        if target.runtime.provider != "cpu":
            return self.nbytes(n, k)
        extra = _UNPACKED_BLOCK_BITS if self.falls_back(target) else _BLOCK_BITS[target.cpu.arch]
        return n * (self._blocks(k) * (self.block * self.bits + extra) // 8 + self._zeros_width(k))

    def packing_bytes(self, n: int, k: int) -> int:
        """Scales and zero points."""
        return n * ((2 if self.half_scales else 4) * self._blocks(k) + self._zeros_width(k))

    def suits(self, target: Target) -> bool:
        """With zero points at 4 bits where the target's own recipes have them, without elsewhere; with half scales where
        activations are wider.
        """
        wanted = self.bits == 4 and target.zero_points, target.runtime.activations == "fp32"
        return not self.falls_back(target) and (self.zero_points, self.half_scales) == wanted

    @property
    def calibrates(self) -> bool:
        """At 8 bits it takes half of what little is lost."""
        return True

    @property
    def smooths(self) -> bool:
        """At 8 bits the activations, in as many, lose more than the weights do."""
        return self.bits == 8

    def quantize(self, rows: np.ndarray) -> Parts:
        """Codes as the file holds them, uint8 [m, bytes], scales [m, blocks], zero points as codes are held."""
        if self.zero_points:
            return self._parts(*search_zero_points(rows, self.bits, self.block))
        # At 8 bits the search finds next to nothing.
        quantize = search_blocks if self.bits == 4 and self.rounding is None else quantize_blocks
        return self._parts(*quantize(rows, self.bits, self.block))

    def rounder(self, hessian: np.ndarray) -> Callable[[np.ndarray], Parts] | None:
        """By GPTQ."""
        known = factor(hessian, self.block)
        if known is None:
            return None
        return lambda rows: self._parts(*gptq_blocks(rows, self.bits, known, zero_points=self.zero_points))

    def values(self, parts: Parts, k: int) -> np.ndarray:
        """The steps of their blocks."""
        packed, scales = parts["qweight"], parts["scales"]
        zeros = self._unpacked(parts["zeros"])[:, : scales.shape[1], None] if self.zero_points else self._zero
        steps = self._unpacked(packed).reshape(*scales.shape, self.block).astype(np.float32) - np.float32(zeros)
        rows: np.ndarray = (steps * scales.astype(np.float32)[:, :, None]).reshape(len(scales), -1)[:, :k]
        return rows

    def read(self, x: np.ndarray) -> np.ndarray:
        """In 8 bits, with a scale a block of a token."""
        padded = np.pad(x, ((0, 0), (0, -x.shape[1] % self.block)))
        blocks = padded.reshape(len(x), -1, self.block)
        scales = np.maximum(np.abs(blocks).max(axis=2, keepdims=True) / 127, np.finfo(np.float32).tiny)
        rounded: np.ndarray = (np.rint(blocks / scales) * scales).reshape(padded.shape)[:, : x.shape[1]]
        return rounded

    def adopting(self, scheme: Scheme, k: int) -> Blocked | None:
        """In the bits and blocks of the checkpoint, where the operator knows such blocks."""
        block = scheme.block(k)
        return None if block is None else Blocked(scheme.bits, block)

    def holds(self, codes: CodeType | None) -> bool:
        """Those of its bits and its block; a block without a zero point has the middle code for zero."""
        return codes is not None and (codes.bits, codes.block, False) == (self.bits, self.block, self.zero_points)

    def coded(self, codes: Codes) -> Parts:
        """Codes and scales."""
        return self._parts(codes.codes, codes.scales)

    def pack_parts(self, b: Builder, name: str, n: int, k: int, pieces: Iterable[Parts]) -> Matrix:
        """The scales follow the codes."""
        return Matrix(self, name, n, k, append_parts(b, self._shapes(b, n, k), pieces))

    def pack_codes(self, b: Builder, name: str, pieces: Sequence[Codes]) -> Matrix:
        """Write codes that are there already, stacked by rows; zero points follow where any is not the middle."""
        n, k = sum(len(piece.codes) for piece in pieces), pieces[0].codes.shape[1]
        shapes = self._shapes(b, n, k)
        if any((piece.zeros != self._zero).any() for piece in pieces):
            shapes["zeros"] = ((n, -(-self._blocks(k) * self.bits // 8)), np.uint8)
        parts = (self._parts(p.codes, p.scales, p.zeros) for p in pieces)
        return Matrix(self, name, n, k, append_parts(b, shapes, parts))

    def matmul(self, b: Builder, x: ir.Value, m: Matrix, name: str, bias: ir.Value | None = None) -> ir.Value:
        """One MatMulNBits, the bias inside.

        Zero points are given only where the format or a checkpoint has its own: they stand in the way of the fastest
        ARM kernels.
        """
        inputs: list[ir.Value | None] = [x, m.value(b, "qweight"), self._scales(b, m)]
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
            [codes, ids, self._scales(b, m), zeros],
            name,
            domain=MICROSOFT,
            bits=self.bits,
            block_size=self.block,
            gather_axis=0,
            quantize_axis=1,
        )

    def _scales(self, b: Builder, m: Matrix) -> ir.Value:
        """In the type of the activations; what widens them is folded away when the graph is loaded."""
        scales = m.value(b, "scales")
        return b.widened(scales) if self.half_scales else scales

    @property
    def _zero(self) -> int:
        """The code of zero where a block has no zero point."""
        return 1 << (self.bits - 1)

    @property
    def _width(self) -> int:
        """Bytes of a block's codes."""
        return self.block * self.bits // 8

    def _blocks(self, k: int) -> int:
        """Blocks of a row; the last one is padded."""
        return -(-k // self.block)

    def _shapes(self, b: Builder, n: int, k: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """The shape and type of each part of a whole matrix."""
        blocks = self._blocks(k)
        zeros = {"zeros": ((n, self._zeros_width(k)), np.uint8)} if self.zero_points else {}
        scale = np.float16 if self.half_scales else b.float
        return {"qweight": ((n, blocks, self._width), np.uint8), "scales": ((n, blocks), scale), **zeros}

    def _zeros_width(self, k: int) -> int:
        """Bytes of a row's zero points, 0 without any."""
        return -(-self._blocks(k) * self.bits // 8) if self.zero_points else 0

    def _parts(self, codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """From codes, one a byte. A half scale is off by a part in 2,048 at most: by no code's sixteenth."""
        if self.half_scales:
            scales = np.clip(scales, -_HALF_MOST, _HALF_MOST).astype(np.float16)
        parts = {"qweight": self._packed(codes), "scales": scales}
        return parts if zeros is None else {**parts, "zeros": self._packed(zeros)}

    def _unpacked(self, packed: np.ndarray) -> np.ndarray:
        """Codes, one a byte [m, codes], from those of the file [m, bytes]; an odd row has one more."""
        if self.bits != 4:
            return packed
        return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)

    def _packed(self, codes: np.ndarray) -> np.ndarray:
        """Codes, one a byte [m, codes], as the file holds them [m, bytes]."""
        if self.bits != 4:
            return codes
        return pack_nibbles(np.pad(codes, ((0, 0), (0, 1))) if codes.shape[1] % 2 else codes)


def _halves(block: int) -> list[int]:
    return [size for size in reversed(BLOCKS) if size <= block]
