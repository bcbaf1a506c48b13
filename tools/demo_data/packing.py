"""Conversations as the rows of a batch.

A row holds several groups. A group is one opening — the home's state, say — and the conversations that follow from it,
each of which sees the opening and itself alone, at the positions it would have if it stood there by itself. So the
state of a home is read once for all that is asked about it, and trains the same as if it were read each time.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    ids = torch.full((len(rows), size), checkpoint.PAD)
    targets = torch.full((len(rows), size), IGNORED)
    positions = torch.zeros((len(rows), size), dtype=torch.long)
    group_of, branch_of = torch.full((2, len(rows), size), -1)
    for r, row in enumerate(rows):
        at = 0
        for g, group in enumerate(row):
            start = len(group.opening)
            parts = [(group.opening, [IGNORED] * start, 0)] + [(i, t, start) for i, t in group.branches]
            for b, (tokens, wanted, position) in enumerate(parts):
                end = at + len(tokens)
                ids[r, at:end] = torch.tensor(tokens)
                targets[r, at:end] = torch.tensor(wanted)
                positions[r, at:end] = torch.arange(position, position + len(tokens))
                group_of[r, at:end], branch_of[r, at:end] = g, b
                at = end
    same = group_of[:, :, None] == group_of[:, None, :]
    within = (branch_of[:, :, None] == branch_of[:, None, :]) | (branch_of[:, None, :] == 0)
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    return Batch(ids, targets, positions, (same & within & causal)[:, None])
