"""Some rows of a checkpoint's tensor, read as if they were the whole: what is left where a vocabulary is trimmed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from edgelm.exporter.checkpoint.codes import Coded, Codes, CodeType
from edgelm.exporter.checkpoint.prequantized import PackedMatrix
from edgelm.exporter.checkpoint.tensors import Derived, RowRange

_GAP = 64 << 10  # fp32 bytes between two rows that are rather read than skipped


@dataclass(frozen=True, eq=False)
class PickedRows(Derived):
    """Rows of a matrix [n, k], or elements of a vector [n]; stands in for the tensor itself.

    Attributes:
        rows: which, int64, ascending.
    """

    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is picked."""
        return (len(self.rows), *self.base.shape[1:])

    def slices(self, rows: Iterable[RowRange]) -> Iterator[np.ndarray]:
        """Of those that are picked, rows [end - first, …] of each (first, end) in turn."""
        cuts = [self._cut(first, end) for first, end in rows]
        spans = self.base.slices(_span(run) for runs in cuts for run in runs)
        for runs in cuts:
            pieces = [next(spans)[run - run[0]] for run in runs]
            yield np.concatenate(pieces) if pieces else np.empty((0, *self.shape[1:]), np.float32)

    @property
    def code_type(self) -> CodeType | None:
        """Of the tensor."""
        return self.base.code_type if isinstance(self.base, Coded) else None

    def code_slices(self, rows: Iterable[RowRange]) -> Iterator[Codes]:
        """Codes of those that are picked, of each (first, end) in turn."""
        assert isinstance(self.base, Coded)
        cuts = [self._cut(first, end) for first, end in rows]
        spans = self.base.code_slices(_span(run) for runs in cuts for run in runs)
        for runs in cuts:
            yield Codes.joined([next(spans).picked(run - run[0]) for run in runs])

    def _cut(self, first: int, end: int) -> list[np.ndarray]:
        """The rows of the tensor that are picked from `first` on, where the next is read on its own."""
        return list(_runs(self.rows[first:end], max(1, _GAP // (4 * math.prod(self.shape[1:])))))

    def codes(self) -> Codes | None:
        """The codes of these rows where the matrix is quantised already and can be packed as it is; else None."""
        whole = self.base.codes() if isinstance(self.base, PackedMatrix) else None
        return None if whole is None else whole.picked(self.rows)


def _span(run: np.ndarray) -> RowRange:
    return int(run[0]), int(run[-1]) + 1


def _runs(rows: np.ndarray, gap: int) -> Iterator[np.ndarray]:
    """Ascending rows, cut where the next is more than `gap` away."""
    if len(rows):
        yield from np.split(rows, np.flatnonzero(np.diff(rows) > gap) + 1)
