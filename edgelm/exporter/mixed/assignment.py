"""Which format for which matrix: the multiple-choice knapsack problem (Sinha & Zoltners, 1979).

Each matrix takes one of its options, which cost bytes and bring a loss; losses and bytes add up. The least loss for
every number of bytes is built up matrix by matrix (dynamic programming over the options that no other beats in both).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

POINTS = 1 << 14  # of a frontier at most; where there are more, of points that lie close together the best is kept


@dataclass(frozen=True)
class Frontier:
    """Assignments none of which is beaten in both bytes and loss, from the smallest to the best.

    Attributes:
        nbytes: of each, int64 [points], rising.
        loss: of each, float64 [points], falling.
    """

    nbytes: np.ndarray
    loss: np.ndarray
    _steps: tuple[tuple[np.ndarray, np.ndarray], ...]

    def within_bytes(self, most: float) -> int | None:
        """The point of least loss that takes at most so many bytes; None where even the smallest takes more."""
        count = int(np.searchsorted(self.nbytes, most, side="right"))
        return count - 1 if count else None

    def within_loss(self, most: float) -> int | None:
        """The point of fewest bytes that loses at most so much; None where even the best loses more."""
        reached = np.flatnonzero(self.loss <= most)
        return int(reached[0]) if len(reached) else None

    def choice(self, point: int) -> list[int]:
        """The option of each matrix, in the order in which they were given."""
        chosen = []
        for parents, options in reversed(self._steps):
            chosen.append(int(options[point]))
            point = int(parents[point])
        return chosen[::-1]


def frontier(options: Sequence[Sequence[tuple[int, float]]], points: int = POINTS) -> Frontier:
    """All best assignments.

    Args:
        options: of each matrix, (bytes, loss); at least one.
        points: how many are kept at most. Exact while there are no more; beyond that the bytes of neighbours differ by
            about a part in `points`, those of every point being its own all the same.
    """
    nbytes, loss = np.zeros(1, np.int64), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    for own in options:
        sizes, losses = np.array([size for size, _ in own], np.int64), np.array([lost for _, lost in own], np.float64)
        total_bytes, total_loss = (nbytes[:, None] + sizes).ravel(), (loss[:, None] + losses).ravel()
        kept = _thinned(total_bytes, _unbeaten(total_bytes, total_loss), points)
        parents, chosen = np.divmod(kept, len(own))
        steps.append((parents.astype(np.int32), chosen.astype(np.int16)))
        nbytes, loss = total_bytes[kept], total_loss[kept]
    return Frontier(nbytes, loss, tuple(steps))


def _unbeaten(nbytes: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Indices of the points that no other beats, by bytes."""
    order = np.lexsort((loss, nbytes))
    least = np.minimum.accumulate(loss[order])
    better = np.ones(len(order), bool)
    better[1:] = loss[order][1:] < least[:-1]
    unbeaten: np.ndarray = order[better]
    return unbeaten


def _thinned(nbytes: np.ndarray, kept: np.ndarray, points: int) -> np.ndarray:
    """At most `points` of the unbeaten ones, both ends among them: of a stretch of bytes the last, which loses least."""
    if len(kept) <= points:
        return kept
    sizes = nbytes[kept]
    stretch = (sizes - sizes[0]) * (points - 2) // max(1, int(sizes[-1] - sizes[0]))
    last = np.append(stretch[1:] != stretch[:-1], True)
    last[0] = True
    thinned: np.ndarray = kept[last]
    return thinned
