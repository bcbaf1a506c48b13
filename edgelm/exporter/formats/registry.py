"""All formats: which one a recipe's entry names, and which ones mixed precision tries.

A new storage format is a module beside this one with a class that derives from `Format`, and a line in `_FORMATS`; so that
recipes may name its operator, that has its line in `edgelm.target.operators`.
"""

from __future__ import annotations

from edgelm.errors import ExportError
from edgelm.exporter.formats.blocked import Blocked
from edgelm.exporter.formats.dense import Dense
from edgelm.exporter.formats.format import Format
from edgelm.exporter.formats.per_row import PerChannel, Rows
from edgelm.target.target import FormatSpec

_FORMATS: tuple[type[Format], ...] = (Dense, Blocked, PerChannel, Rows)

EXACT: Format = Dense(32)
"""Weights as they are."""

ANY_TABLE: Format = Rows()
"""What a table of rows of any length can be looked up in."""

PREFILL: Format = PerChannel(by_token=True)
"""What an int8 prefill graph stores its matrices in."""

TRIED: tuple[Format, ...] = (
    *(
        Blocked(4, block, zero_points=zeros, half_scales=half)
        for half in (False, True)
        for zeros in (False, True)
        for block in (128, 64, 32)
    ),
    *(Blocked(8, block, half_scales=half) for half in (False, True) for block in (128, 32)),
    PerChannel(),
    Dense(16),
    EXACT,
)
"""What mixed precision tries for each matrix, as far as it suits the target."""


def make_format(spec: FormatSpec) -> Format:
    """The Format that a recipe's entry names."""
    for known in _FORMATS:
        if (made := known.of(spec)) is not None:
            return made
    raise ExportError(f"no format for operator {spec.op!r} with {spec.bits} bits")


def table_format(format: Format, k: int) -> Format:
    """The format of a table of rows of `k` values: the one chosen, or else one in which any can be looked up."""
    return format if format.can_gather(k) else ANY_TABLE
