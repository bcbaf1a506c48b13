"""Plain floats."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgelm.exporter.formats.format import Matrix, cast
from edgelm.exporter.onnx.builder import MICROSOFT, Builder
from edgelm.target.target import FormatSpec


@dataclass(frozen=True)
class Dense:
    """Plain floats, stored as the checkpoint has them: [n, k]."""

    bits: int = 32

    @property
    def spec(self) -> FormatSpec:
        """The format as a recipe writes it."""
        return FormatSpec("MatMul", self.bits, None)

    def fit(self, k: int) -> Dense:
        """Nothing to fit."""
        return self

    def nbytes(self, n: int, k: int) -> int:
        """N k floats."""
        return n * k * self.bits // 8

    def can_gather(self, k: int) -> bool:
        """Always: rows stand as they are."""
        return True

    def rounded(self, rows: np.ndarray) -> np.ndarray:
        """The rows in fewer bits."""
        return rows.astype(f"float{self.bits}").astype(np.float32)

    def pack(self, b: Builder, name: str, n: int, k: int, rows: Iterable[np.ndarray]) -> Matrix:
        """Copy the rows."""
        return Matrix(self, name, n, k, {"weight": b.data.append_rows(rows, (n, k), f"float{self.bits}")})

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
