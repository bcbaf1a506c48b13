"""The operators of onnxruntime that read what is stored: for which role, in which bits and blocks, and where they are slow.

A recipe names a format by its operator; a target file and a replayed recipe may name those of this table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

BLOCKS = (16, 32, 64, 128, 256)  # weights a scale, of those operators that know blocks

_MATRICES = ("body", "head")


@dataclass(frozen=True)
class Operator:
    """What a recipe may say about an operator.

    Attributes:
        name: as onnxruntime calls it.
        roles: of a recipe that it may serve.
        bits: that a value may have.
        blocks: that a scale may be shared by; empty where the operator knows no blocks.
        zero_points: whether a block may have one.
        rounds_activations: whether it rounds what it is given to 8 bits, so that a difference in the last digit of a
            float may become one of a whole step.
        lookup: the operator that looks up an embedding stored in the same way; None where that is itself.
        without_dotprod: bits → the work for a token on an ARM core without dot products, as a multiple of int8 by
            DynamicQuantizeMatMul: instructions counted on emulated cores (docs/notes/targets.md). Empty where nothing falls
            back to slow kernels.
    """

    name: str
    roles: tuple[str, ...]
    bits: tuple[int, ...]
    blocks: tuple[int, ...] = ()
    zero_points: bool = False
    rounds_activations: bool = False
    shares_scale: bool = False
    lookup: str | None = None
    without_dotprod: Mapping[int, int] = field(default_factory=dict, hash=False)

    def falls_back(self, arch: str, provider: str, dotprod: bool | None) -> bool:
        """Whether it has only slow kernels on such a core; where the core's dot products are not known, it has not."""
        return bool(self.without_dotprod) and (arch, provider) == ("aarch64", "cpu") and dotprod is False

    def work(self, bits: int | None) -> int:
        """The entry of `without_dotprod`; the least where the bits are not known."""
        return self.without_dotprod.get(bits or 0, min(self.without_dotprod.values()))


OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        operator.name: operator
        for operator in (
            Operator("MatMul", _MATRICES, (32, 16), lookup="Gather"),
            Operator(
                "MatMulNBits",
                _MATRICES,
                (4, 8),
                BLOCKS,
                zero_points=True,
                rounds_activations=True,
                lookup="GatherBlockQuantized",
                without_dotprod={4: 6, 8: 30},
            ),
            # One scale an output channel: the block is the whole row.
            Operator(
                "DynamicQuantizeMatMul",
                (*_MATRICES, "prefill"),
                (8,),
                rounds_activations=True,
                shares_scale=True,
                lookup="Gather",
            ),
            Operator("Gather", ("embedding",), (32, 16, 8)),
            Operator("GatherBlockQuantized", ("embedding",), (4, 8), BLOCKS, zero_points=True),
            Operator("none", ("kv",), (32, 16)),
            Operator("GroupQueryAttention", ("kv",), (8,), rounds_activations=True),
        )
    }
)


def round_activations(names: Iterable[str]) -> bool:
    """Whether one of these operators does; an unknown one is taken not to."""
    return any(OPERATORS[name].rounds_activations for name in names if name in OPERATORS)


def share_scale(names: Iterable[str]) -> bool:
    """Whether one of these operators rounds all activations of a pass by one scale; an unknown one is taken not to."""
    return any(OPERATORS[name].shares_scale for name in names if name in OPERATORS)


def operators_of(role: str) -> dict[str, Operator]:
    """Those that a recipe may name for a role, by name."""
    return {name: operator for name, operator in OPERATORS.items() if role in operator.roles}
