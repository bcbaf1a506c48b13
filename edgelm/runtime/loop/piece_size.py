"""How much of a prompt is read between two tokens of the texts that are generated meanwhile."""

from __future__ import annotations

import math

from edgelm.runtime.kv.prefill import PREFILL_CHUNK

BESIDE = 1.6  # passes of the others that a piece of a prompt may take between two of them
TILE = 4  # tokens that kernels of matrices compute together: three take as long
_FIRST = 16  # tokens of the first piece
_PACE = 1.25  # most that one measurement changes a piece, either way: so that the median counts
_LEAST = TILE / 2  # a size that asks for rows; from it, two short pieces lead back
_ROWS = 8  # after a piece at most: one pass that something else held up says little


class PieceSize:
    """Tokens of the next piece of a prompt beside others; measured while they run, and kept.

    A piece is a pass of its own, of a multiple of `TILE` tokens. Where even the smallest takes longer than the others may be
    kept waiting, one to several rounds after it read a single token instead, as one more row of the others' pass: that costs
    them the least, and is slower for the prompt.
    """

    def __init__(self) -> None:
        self._tokens, self._step = float(_FIRST), 0.0
        self._asked, self._rows = _FIRST, 0  # of the last piece; rows that are to follow it

    def next(self) -> int:
        """How many tokens to read in this round; 1 for a row of the others' pass."""
        if self._rows:
            self._rows -= 1
            return 1
        self._asked = max(int(self._tokens) // TILE, 1) * TILE
        return self._asked

    def stepped(self, seconds: float) -> None:
        """A pass of the others, without such a row, took so long."""
        factor = min(max(seconds / self._step, 1 / _PACE), _PACE) if self._step else 1.0
        self._step = (self._step or seconds) * factor**0.2

    def read(self, tokens: int, seconds: float) -> None:
        """A piece took so long."""
        if tokens < self._asked or not self._step:
            return  # the end of a prompt
        passes = seconds / self._step
        factor = BESIDE / max(passes, 1e-9)
        self._tokens = min(max(self._tokens * min(max(factor, 1 / _PACE), _PACE), _LEAST), PREFILL_CHUNK)
        self._rows = min(math.ceil(passes / BESIDE), _ROWS) if self._tokens < TILE else 0
