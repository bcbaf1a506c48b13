"""Integer codes of a matrix that is quantised already, which a bundle may hold as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from edgelm.exporter.checkpoint.tensors import RowRange


@dataclass(frozen=True)
class Codes:
    """A quantised matrix [n, k], or some rows of one: ``(code - zero) * scale``.

    Attributes:
        bits: 4 or 8.
        block: columns of a block, a power of two that divides the checkpoint's groups.
        codes: uint8 [n, k].
        scales: float32 [n, k / block].
        zeros: uint8 [n, k / block].
    """

    bits: int
    block: int
    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray

    def picked(self, rows: np.ndarray) -> Codes:
        """Those of some rows alone."""
        return Codes(self.bits, self.block, self.codes[rows], self.scales[rows], self.zeros[rows])

    @classmethod
    def joined(cls, pieces: Sequence[Codes]) -> Codes:
        """Rows under rows, of one block."""
        parts = (np.concatenate([getattr(piece, part) for piece in pieces]) for part in ("codes", "scales", "zeros"))
        return cls(pieces[0].bits, pieces[0].block, *parts)


@dataclass(frozen=True)
class CodeType:
    """Codes whose zero is the middle one, as an operator would have to hold them.

    Attributes:
        name: of the file's element type: ``Q8_0`` …
        bits: 4 or 8, whichever holds them.
        block: columns that share a scale.
        half: whether a scale is a 16-bit float.
    """

    name: str
    bits: int
    block: int
    half: bool = True


@runtime_checkable
class Coded(Protocol):
    """A tensor of which every slice of rows can be read as codes."""

    @property
    def code_type(self) -> CodeType | None:
        """What they are; None where it has none."""

    def code_slices(self, rows: Iterable[RowRange]) -> Iterator[Codes]:
        """The codes of rows of each (first, end) in turn."""
