"""How a matrix is stored, as a target file and a manifest write it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FormatSpec:
    """How one kind of matrix is stored: the operator that reads it, bits a weight, weights a scale.

    `block` is None where the operator has none (one scale per row, or no scale at all). `rounding` is ``nearest`` where
    the scales of 4-bit blocks are not searched: for comparison, since it gives worse weights of the same size and speed.
    """

    op: str
    bits: int
    block: int | None = None
    rounding: str | None = None

    def __str__(self) -> str:
        return f"{self.op} {self.bits}-bit" + (f" block {self.block}" if self.block else "")

    def to_dict(self) -> dict[str, Any]:
        """``{"op": …, "bits": …}``, with ``"block"`` and ``"rounding"`` where there are any."""
        return {key: value for key, value in asdict(self).items() if value is not None}
