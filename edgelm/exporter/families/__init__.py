"""One short file a model family: what its config.json means and where its weights are.

A family module has ``MODEL_TYPES`` (the `model_type` values it reads) and ``describe(config) -> Decoder``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgelm.exporter.config import Config
from edgelm.exporter.decoder import Decoder
from edgelm.exporter.families import llama


@dataclass(frozen=True)
class Family:
    """A family module's offer.

    Attributes:
        name: the module's.
        model_types: the `model_type` values it reads.
        describe: config.json → the decoder.
    """

    name: str
    model_types: tuple[str, ...]
    describe: Callable[[Config], Decoder]


_FAMILIES = (Family("llama", llama.MODEL_TYPES, llama.describe),)


def family_of(model_type: str) -> Family | None:
    """The family that reads this `model_type`, or None."""
    return next((family for family in _FAMILIES if model_type in family.model_types), None)


def model_types() -> list[str]:
    """Every `model_type` with a native family."""
    return sorted(name for family in _FAMILIES for name in family.model_types)
