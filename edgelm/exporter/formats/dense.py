"""Plain floats."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import onnx_ir as ir

from edgelm.exporter.formats.format import Format, Matrix, Parts, append_parts, cast
from edgelm.exporter.onnx.builder import MICROSOFT, Builder
from edgelm.target.target import FormatSpec, Target


@dataclass(frozen=True)
class Dense(Format):
    """Plain floats, stored as the checkpoint has them: [n, k]."""

    bits: int = 32

    @classmethod
    def of(cls, spec: FormatSpec) -> Self | None:
        """A matrix to multiply or to look up."""
        return cls(spec.bits) if spec.op in ("MatMul", "Gather") and spec.bits in (16, 32) else None

    @property
    def spec(self) -> FormatSpec:
        """The format as a recipe writes it."""
        return FormatSpec("MatMul", self.bits, None)

    def suits(self, target: Target) -> bool:
        """In the type of the target's activations."""
        return self.bits == (16 if target.runtime.activations == "fp16" else 32)

    def resident_bytes(self, n: int, k: int, target: Target, itemsize: int) -> int:
        """Half floats beside float activations are widened when the session is made."""
        return n * k * max(itemsize, self.bits // 8)

    @property
    def exact(self) -> bool:
        """In 32 bits."""
        return self.bits == 32

    def quantize(self, rows: np.ndarray) -> Parts:
        """The rows in so many bits."""
        return {"weight": rows.astype(f"float{self.bits}")}

    def values(self, parts: Parts, k: int) -> np.ndarray:
        """The rows."""
        return parts["weight"].astype(np.float32)

    def pack(self, b: Builder, name: str, n: int, k: int, rows: Iterable[np.ndarray]) -> Matrix:
        """Copy the rows: there is nothing to compute."""
        return self.pack_parts(b, name, n, k, ({"weight": piece} for piece in rows))

    def pack_parts(self, b: Builder, name: str, n: int, k: int, pieces: Iterable[Parts]) -> Matrix:
        """One after another."""
        return Matrix(self, name, n, k, append_parts(b, {"weight": ((n, k), f"float{self.bits}")}, pieces))

    def matmul(self, b: Builder, x: ir.Value, m: Matrix, name: str, bias: ir.Value | None = None) -> ir.Value:
        """FusedMatMul reads W transposed, so that one copy serves both uses."""
        y = b.op("FusedMatMul", [x, self._weight(b, m)], name, domain=MICROSOFT, transB=1)
        return b.op("Add", [y, bias], f"{name}/bias") if bias is not None else y

    def gather(self, b: Builder, ids: ir.Value, m: Matrix, name: str) -> ir.Value:
        """A plain look-up."""
        rows = b.op("Gather", [m.value(b, "weight"), ids], name, axis=0)
        return rows if self._as_is(b) else cast(b, rows, f"{name}/cast")

    def _weight(self, b: Builder, m: Matrix) -> ir.Value:
        weight = m.value(b, "weight")
        # Folded when the session is made: a smaller file, not less memory.
        return weight if self._as_is(b) else cast(b, weight, f"{m.name}/cast")

    def _as_is(self, b: Builder) -> bool:
        return self.bits == 8 * b.float.itemsize
