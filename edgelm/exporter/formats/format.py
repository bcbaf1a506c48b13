"""A matrix of the model in its stored form, and what every form of storing one answers to.

A matrix W [n, k] serves as a linear layer (``x Wᵀ``), as an embedding table (``W[ids]``), or, when a model's
embedding and head are tied, as both from one copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from edgelm.exporter.onnx.builder import Builder
from edgelm.exporter.onnx.store import Stored
from edgelm.target.target import FormatSpec


@dataclass(frozen=True)
class Matrix:
    """A packed matrix [n, k] in a format: its parts in the data file, under the names the graph gives them."""

    format: Format
    name: str
    n: int
    k: int
    parts: dict[str, Stored]

    def value(self, b: Builder, part: str, *shape: int, suffix: str = "") -> ir.Value:
        """A part as an initializer, under another shape where one is given."""
        tensor = self.parts[part]
        return b.stored(f"{self.name}.{part}{suffix}", tensor.viewed(*shape) if shape else tensor)


class Format(Protocol):
    """What a recipe chooses for a role."""

    @property
    def spec(self) -> FormatSpec:
        """The format as a recipe writes it."""

    def fit(self, k: int) -> Format:
        """This format with its block made to suit rows of `k` values."""

    def nbytes(self, n: int, k: int) -> int:
        """Bytes of a packed [n, k] matrix."""

    def can_gather(self, k: int) -> bool:
        """Whether a table of rows of `k` values can be looked up from the bytes a product reads."""

    def rounded(self, rows: np.ndarray) -> np.ndarray:
        """The float32 rows [n, k] that are left of `rows` once they are packed."""

    def pack(self, b: Builder, name: str, n: int, k: int, rows: Iterable[np.ndarray]) -> Matrix:
        """Write the matrix, which arrives as float32 slices of rows, to the data file."""

    def matmul(self, b: Builder, x: ir.Value, m: Matrix, name: str, bias: ir.Value | None = None) -> ir.Value:
        """Nodes for ``x Wᵀ + bias``; x is [..., k], the result [..., n]."""

    def gather(self, b: Builder, ids: ir.Value, m: Matrix, name: str) -> ir.Value:
        """Nodes for ``W[ids]``; ids is int64 [1, s], the result [1, s, k]."""


def cast(b: Builder, value: ir.Value, name: str) -> ir.Value:
    """`value` in the type of the activations."""
    return b.op("Cast", [value], name, to=int(ir.DataType.from_numpy(b.float)))
