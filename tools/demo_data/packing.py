"""Conversations as the rows of a batch.

A row holds several groups. A group is one opening — the home's state, say — and the conversations that follow from it,
each of which sees the opening and itself alone, at the positions it would have if it stood there by itself. So the
state of a home is read once for all that is asked about it, and trains the same as if it were read each time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from . import checkpoint

IGNORED = -100  # cross_entropy's mark for positions that are not scored


@dataclass(frozen=True)
class Group:
    """An opening, token ids, and branches: token ids and their targets, IGNORED outside the assistant's turns."""

    opening: list[int]
    branches: list[tuple[list[int], list[int]]]

    def __len__(self) -> int:
        return len(self.opening) + sum(len(ids) for ids, _ in self.branches)


@dataclass(frozen=True)
class Batch:
    """Rows as tensors: ids, targets and positions [R, S], and the mask [R, 1, S, S], True where a token is seen."""

    ids: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor


def pack(groups: list[Group], size: int) -> list[list[Group]]:
    """Put groups into as few rows of `size` tokens as first-fit, longest first, finds; longer ones are left out."""
    rows: list[list[Group]] = []
    room: list[int] = []
    sized = ((len(group), group) for group in groups)
    for length, group in sorted((g for g in sized if g[0] <= size), key=lambda g: g[0], reverse=True):
        i = next((i for i, left in enumerate(room) if left >= length), len(rows))
        if i == len(rows):
            rows.append([])
            room.append(size)
        rows[i].append(group)
        room[i] -= length
    return rows


def stack(rows: list[list[Group]], size: int) -> Batch:
    """The batch of some rows."""
    # Filled in numpy, whose small slices cost a fifth of torch's.
    start_values = (checkpoint.PAD, IGNORED, 0, -1, -1)
    filled = ids, targets, positions, group_of, branch_of = [np.full((len(rows), size), v) for v in start_values]
    for r, row in enumerate(rows):
        at = 0
        for g, group in enumerate(row):
            start = len(group.opening)
            parts = [(group.opening, [IGNORED] * start, 0)] + [(i, t, start) for i, t in group.branches]
            for b, (tokens, wanted, position) in enumerate(parts):
                end = at + len(tokens)
                ids[r, at:end] = tokens
                targets[r, at:end] = wanted
                positions[r, at:end] = range(position, position + len(tokens))
                group_of[r, at:end], branch_of[r, at:end] = g, b
                at = end
    tokens_of, wanted_of, places, groups, branches = map(torch.from_numpy, filled)
    same = groups[:, :, None] == groups[:, None, :]
    within = (branches[:, :, None] == branches[:, None, :]) | (branches[:, None, :] == 0)
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    return Batch(tokens_of, wanted_of, places, (same & within & causal)[:, None])
