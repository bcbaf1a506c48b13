"""Which Format a recipe's entry names."""

from __future__ import annotations

from edgelm.errors import ExportError
from edgelm.exporter.formats.blocked import Blocked
from edgelm.exporter.formats.dense import Dense
from edgelm.exporter.formats.format import Format
from edgelm.exporter.formats.per_row import PerChannel, Rows
from edgelm.target.target import FormatSpec


def make_format(spec: FormatSpec) -> Format:
    """The Format that a recipe's entry names."""
    match spec.op:
        case "MatMul":
            return Dense(spec.bits)
        case "Gather":
            return Rows() if spec.bits == 8 else Dense(spec.bits)
        case "MatMulNBits" | "GatherBlockQuantized":
            return Blocked(spec.bits, spec.block or 32, spec.rounding)
        case "DynamicQuantizeMatMul":
            return PerChannel()
    raise ExportError(f"no format for operator {spec.op!r} with {spec.bits} bits")
