"""int8 with one scale a row of the matrix: for products (PerChannel) and for look-ups alone (Rows)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import onnx_ir as ir

from edgelm.errors import ExportError
from edgelm.exporter.formats.format import Format, Matrix, Parts, append_parts, cast
from edgelm.exporter.formats.rounding.gptq import factor, gptq_rows
from edgelm.exporter.formats.rounding.rtn import quantize_rows
from edgelm.exporter.onnx.builder import MICROSOFT, Builder
from edgelm.target.target import FormatSpec, Target

_TINY = np.finfo(np.float32).tiny  # a token of zeros stays zeros


class _PerRow(Format):
    """What both have in common."""

    def quantize(self, rows: np.ndarray) -> Parts:
        """Codes int8 [m, k] and scales float32 [m]."""
        codes, scales = quantize_rows(rows)
        return {"qweight": codes, "scales": scales}

    def values(self, parts: Parts, k: int) -> np.ndarray:
        """The steps of their rows."""
        values: np.ndarray = parts["qweight"] * parts["scales"][:, None]
        return values


@dataclass(frozen=True)
class PerChannel(_PerRow):
    """int8 with scales per output channel, activations quantised on the fly (DynamicQuantizeMatMul).

    The fast path on cores without dot-product instructions, and for prefill. The operator wants W transposed, [k, n].

    Attributes:
        by_token: each token's activations have a scale of their own. The operator takes one for all of them, so that one
            token's outliers cost all others their precision; for it to be each token's own, these are brought to the
            same range before and back after. It takes five more nodes per matrix, which pay where tokens are many, or
            of very different size.
    """

    by_token: bool = False

    @classmethod
    def of(cls, spec: FormatSpec) -> Self | None:
        """A matrix to multiply."""
        return cls() if spec.op == "DynamicQuantizeMatMul" else None

    @property
    def spec(self) -> FormatSpec:
        """The format as a recipe writes it."""
        return FormatSpec("DynamicQuantizeMatMul", 8, None)

    @property
    def lookup(self) -> Format:
        """Rows, which need not be turned back."""
        return Rows()

    def suits(self, target: Target) -> bool:
        """Where one of the target's own recipes uses it."""
        return self.spec in {spec for recipe in target.recipes.values() for spec in (recipe.body, recipe.head)}

    @property
    def uneven(self) -> Format:
        """With a scale for each token."""
        return self if self.by_token else replace(self, by_token=True)

    @property
    def scoring(self) -> Format:
        """With a scale for each token: in decode there is one, and of heads there is one."""
        return self.uneven

    def packing_bytes(self, n: int, k: int) -> int:
        """All codes: they are transposed."""
        return n * k

    @property
    def smooths(self) -> bool:
        """All activations of a product share a scale."""
        return True

    @property
    def calibrates(self) -> bool:
        """One scale for a whole row is coarse, and coarser once columns are scaled."""
        return True

    def rounder(self, hessian: np.ndarray) -> Callable[[np.ndarray], Parts] | None:
        """By GPTQ."""
        known = factor(hessian, 1)
        if known is None:
            return None

        def rounded(rows: np.ndarray) -> Parts:
            codes, scales = gptq_rows(rows, known)
            return {"qweight": codes, "scales": scales}

        return rounded

    def even(self, x: np.ndarray) -> np.ndarray:
        """With `by_token` each token as a share of its largest value."""
        return x / _sizes(x) if self.by_token else x

    def read(self, x: np.ndarray) -> np.ndarray:
        """In 8 bits, with one scale and zero point for all of it."""
        if self.by_token:
            scaled: np.ndarray = replace(self, by_token=False).read(self.even(x)) * _sizes(x)
            return scaled
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        step = (high - low) / 255 or 1.0
        zero = np.rint(-low / step)
        codes = np.clip(np.rint(x / step) + zero, 0, 255) - zero
        rounded: np.ndarray = (codes * step).astype(np.float32)
        return rounded

    def pack_parts(self, b: Builder, name: str, n: int, k: int, pieces: Iterable[Parts]) -> Matrix:
        """Into the transposed whole, which is held in memory at a byte a weight."""
        codes, scales = np.empty((k, n), np.int8), np.empty(n, b.float)
        start = 0
        for piece in pieces:
            end = start + len(piece["scales"])
            codes[:, start:end], scales[start:end] = piece["qweight"].T, piece["scales"]
            start = end
        return Matrix(self, name, n, k, {"qweight": b.data.append(codes), "scales": b.data.append(scales)})

    def matmul(self, b: Builder, x: ir.Value, m: Matrix, name: str, bias: ir.Value | None = None) -> ir.Value:
        """One DynamicQuantizeMatMul, the bias inside."""
        if b.float != np.float32:
            raise ExportError(
                "DynamicQuantizeMatMul needs float32 activations", hint="choose another format in the target's recipe"
            )
        inputs: list[ir.Value | None] = [x, m.value(b, "qweight"), m.value(b, "scales")]
        if self.by_token:
            largest = b.op("ReduceMax", [b.op("Abs", [x], f"{name}/abs"), b.integers([-1])], f"{name}/max", keepdims=1)
            tiny = b.constant("tiny", np.array(_TINY, np.float32))
            scale = b.op("Max", [largest, tiny], f"{name}/scale")
            inputs[0] = b.op("Div", [x, scale], f"{name}/even")
            y = b.op("DynamicQuantizeMatMul", inputs, name, domain=MICROSOFT)
            y = b.op("Mul", [y, scale], f"{name}/scaled")
            return y if bias is None else b.op("Add", [y, bias], f"{name}/bias")
        if bias is not None:
            inputs += [None, bias]  # no zero points
        return b.op("DynamicQuantizeMatMul", inputs, name, domain=MICROSOFT)

    def gather(self, b: Builder, ids: ir.Value, m: Matrix, name: str) -> ir.Value:
        """Columns of the transposed table, turned back into rows and scaled."""
        columns = b.op("Gather", [m.value(b, "qweight"), ids], f"{name}/columns", axis=1)  # [k, B, s]
        codes = b.op("Transpose", [columns], f"{name}/rows", perm=[1, 2, 0])  # [B, s, k]
        return _scaled(b, codes, m, ids, name)


@dataclass(frozen=True)
class Rows(_PerRow):
    """int8 rows with a scale each: an embedding that shares nothing with the head."""

    @classmethod
    def of(cls, spec: FormatSpec) -> Self | None:
        """A table to look up."""
        return cls() if (spec.op, spec.bits) == ("Gather", 8) else None

    @property
    def spec(self) -> FormatSpec:
        """The format as a recipe writes it."""
        return FormatSpec("Gather", 8, None)

    def pack_parts(self, b: Builder, name: str, n: int, k: int, pieces: Iterable[Parts]) -> Matrix:
        """The scales follow the codes."""
        shapes = {"qweight": ((n, k), np.int8), "scales": ((n,), b.float)}
        return Matrix(self, name, n, k, append_parts(b, shapes, pieces))

    def matmul(self, b: Builder, x: ir.Value, m: Matrix, name: str, bias: ir.Value | None = None) -> ir.Value:
        """Not for products."""
        raise ExportError(
            "a Gather format stores an embedding, not a matrix to multiply",
            hint="use it for the role 'embedding' alone",
        )

    def gather(self, b: Builder, ids: ir.Value, m: Matrix, name: str) -> ir.Value:
        """Look the codes up, then scale them."""
        codes = b.op("Gather", [m.value(b, "qweight"), ids], f"{name}/rows", axis=0)
        return _scaled(b, codes, m, ids, name)


def _sizes(x: np.ndarray) -> np.ndarray:
    """The largest magnitude of each token [s, 1] of x [s, k]."""
    sizes: np.ndarray = np.maximum(np.maximum(x.max(axis=1), -x.min(axis=1)), _TINY)[:, None]
    return sizes


def _scaled(b: Builder, codes: ir.Value, m: Matrix, ids: ir.Value, name: str) -> ir.Value:
    """Int8 codes [B, s, k] times the scale of their row."""
    floats = cast(b, codes, f"{name}/cast")
    scale = b.op("Gather", [m.value(b, "scales"), ids], f"{name}/scale", axis=0)  # [B, s]
    column = b.op("Unsqueeze", [scale, b.integers([2])], f"{name}/scale/column")
    return b.op("Mul", [floats, column], name)
