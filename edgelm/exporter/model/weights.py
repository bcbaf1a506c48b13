"""The weights of a decoder as the graph wants them: read from the checkpoint, stacked, picked out, scaled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.codes import Codes, CodeType
from edgelm.exporter.model.decoder import Linear, Source


@dataclass
class Smoothing:
    """Factors that change how large values are between two matrices, and nothing of what comes out.

    Attributes:
        columns: matrix → of its columns [inputs].
        rows: matrix → of its rows [outputs].
        vectors: tensor → (of its values once the offset is added to them, that offset).
    """

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    vectors: dict[str, tuple[np.ndarray, float]] = field(default_factory=dict)


class WeightReader:
    """Reads matrices and vectors of a checkpoint, a slice of rows at a time; `smoothing` is multiplied in."""

    def __init__(self, checkpoint: Checkpoint, smoothing: Smoothing | None = None) -> None:
        self.checkpoint = checkpoint
        self.smoothing = smoothing or Smoothing()

    def rows(self, linear: Linear) -> Iterator[np.ndarray]:
        """A matrix as float32 slices of rows."""
        columns, rows = self.smoothing.columns.get(linear.name), self.smoothing.rows.get(linear.name)
        start = 0
        for source in linear.sources:
            for piece in self._pieces(source, linear.inputs):
                if linear.scale != 1:
                    piece = piece * np.float32(linear.scale)
                if columns is not None:
                    piece = piece * columns
                if rows is not None:
                    piece = piece * rows[start : start + len(piece), None]
                yield piece
                start += len(piece)

    def matrix(self, linear: Linear) -> np.ndarray:
        """A whole matrix, float32 [outputs, inputs]."""
        return np.concatenate(list(self.rows(linear)))

    def codes(self, linear: Linear) -> list[Codes]:
        """The codes of all parts of a matrix; empty where one has none, or another block, or is not taken whole."""
        found: list[Codes] = []
        for source in linear.sources if linear.scale == 1 else ():
            whole = not (source.every or source.transposed)
            codes = self.checkpoint.codes(source.tensor, (source.rows, linear.inputs)) if whole else None
            if codes is None or (found and (codes.bits, codes.block) != (found[0].bits, found[0].block)):
                return []
            found.append(codes)
        return found

    def code_type(self, linear: Linear) -> CodeType | None:
        """The codes that a matrix has in a GGUF file, the same in all its parts; None where it has none, or other values are
        wanted than the file's.
        """
        smoothed = linear.name in self.smoothing.columns or linear.name in self.smoothing.rows
        if self.checkpoint.gguf is None or smoothed or linear.scale != 1:
            return None
        types = {
            None if s.every or s.transposed else self.checkpoint.code_type(s.tensor, (s.rows, linear.inputs))
            for s in linear.sources
        }
        return types.pop() if len(types) == 1 else None

    def code_rows(self, linear: Linear) -> Iterator[Codes]:
        """The codes of a matrix that has a `code_type`, a slice of rows at a time."""
        for source in linear.sources:
            yield from self.checkpoint.code_rows(source.tensor, (source.rows, linear.inputs))

    def vector(self, source: Source) -> np.ndarray:
        """A vector, as float32."""
        whole = self.checkpoint.vector(source.tensor, source.stored_rows)
        if source.tensor in self.smoothing.vectors:
            factors, offset = self.smoothing.vectors[source.tensor]
            whole = (whole + np.float32(offset)) * factors - np.float32(offset)
        return (
            whole.reshape(-1, source.every)[:, source.start : source.start + source.take].ravel()
            if source.every
            else whole
        )

    def table(self, name: str, shape: tuple[int, int], start: int, count: int) -> np.ndarray:
        """Some rows of a matrix, as float32."""
        return np.concatenate(list(self.checkpoint.rows(name, shape)))[start : start + count]

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A small tensor of this shape, whole, as float32."""
        return self.checkpoint.array(name, shape)

    def _pieces(self, source: Source, columns: int) -> Iterator[np.ndarray]:
        shape = (source.stored_rows, columns)
        if source.transposed:  # stored by columns: no slice of rows can be read, so the whole is
            whole = np.concatenate(list(self.checkpoint.rows(source.tensor, shape[::-1]))).T
            yield from (
                (whole[i : i + 1024] for i in range(0, len(whole), 1024))
                if not source.every
                else (whole[i : i + source.take] for i in range(source.start, len(whole), source.every))
            )
        elif source.every:
            starts = range(source.start, source.stored_rows, source.every)
            yield from self.checkpoint.rows(source.tensor, shape, ((start, start + source.take) for start in starts))
        else:
            yield from self.checkpoint.rows(source.tensor, shape)
