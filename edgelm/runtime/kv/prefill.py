"""How a prompt is cut into the passes that read it, and how much of one need not be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

PREFILL_CHUNK = 256  # tokens a forward pass takes of a prompt: faster than 512, and half the memory between the layers


def pass_size(wanted: int | None, *, limited: bool) -> int:
    """Tokens of a pass: a profile's, but where memory is limited not more than its figures count."""
    return PREFILL_CHUNK if wanted is None else min(wanted, PREFILL_CHUNK) if limited else wanted


def prefill_pieces(ids: Sequence[int], size: int, rewinds: bool) -> list[tuple[Sequence[int], int]]:
    """The passes that read `ids`, none longer than `size`, and how many logits each needs: one behind the last id.

    Where the engine does not rewind freely it keeps the states after a pass of several tokens. The last token then has
    a pass of its own: a prompt given again begins before it.
    """
    body = len(ids) if rewinds or len(ids) < 3 else len(ids) - 1
    pieces = [ids[start : min(start + size, body)] for start in range(0, body, size)]
    pieces += [ids[body:]] if body < len(ids) else []
    return [(piece, int(index == len(pieces))) for index, piece in enumerate(pieces, 1)]


def common(one: Iterable[int], other: Iterable[int]) -> int:
    """How many ids two texts begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
