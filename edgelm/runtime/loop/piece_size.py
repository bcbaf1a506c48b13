"""How much of a prompt is read between two tokens of the texts that are generated meanwhile."""

from __future__ import annotations

from edgelm.runtime.kv.prefill import PREFILL_CHUNK

BESIDE = 1.6  # passes of the others that a piece of a prompt may take between two of them
TILE = 4  # tokens that kernels of matrices compute together: three take as long
_FIRST = 16  # tokens of the first piece
_PACE = 1.25  # most that one measurement changes a piece, either way: so that the median counts
_AGAIN = 1.02  # by how much a size that is too small for a pass grows with every row


class PieceSize:
    """Tokens of the next piece of a prompt beside others; measured while they run, and kept.

    A piece is a pass of its own, of a multiple of `TILE` tokens. Where even the smallest takes longer than the others may be
    kept waiting, some rounds read a single token instead, as one more row of the others' pass: that costs them the least,
    and a token of the prompt more than in a piece.
    """

    def __init__(self) -> None:
        self._tokens, self._step = float(_FIRST), 0.0
        self._asked, self._due = _FIRST, 0.0  # of the last piece; the share of the next that rows have earned

    def next(self) -> int:
        """How many tokens to read in this round; 1 for a row of the others' pass."""
        if self._tokens >= TILE:
            self._asked = int(self._tokens) // TILE * TILE
            return self._asked
        self._due += (self._tokens - 1) / (TILE - 1)
        if self._due >= 1:
            self._due, self._asked = self._due - 1, TILE
            return TILE
        self._tokens = min(self._tokens * _AGAIN, TILE)
        return 1

    def stepped(self, seconds: float) -> None:
        """A pass of the others, without such a row, took so long."""
        factor = min(max(seconds / self._step, 1 / _PACE), _PACE) if self._step else 1.0
        self._step = (self._step or seconds) * factor**0.2

    def read(self, tokens: int, seconds: float) -> None:
        """A piece took so long."""
        if tokens < self._asked or not self._step:
            return  # the end of a prompt
        factor = BESIDE * self._step / max(seconds, 1e-9)
        self._tokens = min(max(self._tokens * min(max(factor, 1 / _PACE), _PACE), 1.0), PREFILL_CHUNK)
