"""One short file a model family: what its config.json means and where its weights are.

A family module has ``MODEL_TYPES`` (the `model_type` values it reads) and ``describe(config) -> Decoder``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from edgelm.errors import UnsupportedModelError
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import TRY_OPTIMUM
from edgelm.exporter.model.decoder import Decoder

_NAMES = (
    "cohere2",
    "ernie",
    "exaone",
    "gemma",
    "gpt2",
    "gpt_neox",
    "granite",
    "helium",
    "internlm",
    "lfm2",
    "llama",
    "nemotron",
    "olmo2",
    "opt",
    "phi",
    "phi3",
    "qwen",
    "qwen3_5",
    "smollm3",
    "stablelm",
)


@dataclass(frozen=True)
class Family:
    """A family module's offer.

    Attributes:
        name: the module's.
        model_types: the `model_type` values it reads.
        about: the models, and what is particular to them.
        describe: config.json → the decoder.
    """

    name: str
    model_types: tuple[str, ...]
    about: str
    describe: Callable[[Config], Decoder]


def all_families() -> tuple[Family, ...]:
    """Every native family, by name."""
    return tuple(_family(import_module(f"{__name__}.{name}")) for name in _NAMES)


def family_of(model_type: str) -> Family | None:
    """The family that reads this `model_type`, or None."""
    return next((family for family in all_families() if model_type in family.model_types), None)


def describe(config: Config) -> Decoder:
    """The decoder that a config.json describes, by the family that reads its `model_type`.

    Raises:
        CheckpointError: a key is missing or odd.
        UnsupportedModelError: there is no such family, or it cannot say all that the file asks for.
    """
    kind = config.model_type
    family = family_of(kind)
    if family is None:
        known = ", ".join(model_types())
        raise UnsupportedModelError(
            f"{config.path}: no native family for model type {kind!r} (native: {known})", hint=TRY_OPTIMUM
        )
    return family.describe(config)


def model_types() -> list[str]:
    """Every `model_type` with a native family."""
    return sorted(name for family in all_families() for name in family.model_types)


def _family(module: ModuleType) -> Family:
    about = " ".join((module.__doc__ or "").split("\n\n")[0].split())
    return Family(module.__name__.rpartition(".")[2], module.MODEL_TYPES, about, module.describe)
