"""One short file a model family: what its config.json means and where its weights are.

A family module has ``MODEL_TYPES`` (the `model_type` values it reads) and ``describe(config) -> Decoder``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import TRY_OPTIMUM
from edgelm.exporter.model.decoder import Decoder

_WIDEST_HEAD = 4096  # values
_LARGEST_STATE = 1 << 26  # values
_DAMAGED = "config.json is damaged, or of another kind of model"
_SHARED = ("common", "rope")  # modules that describe no family


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
    """Every native family, by name: each module of this package is one."""
    names = sorted(module.name for module in iter_modules(__path__) if module.name not in _SHARED)
    return tuple(_family(import_module(f"{__name__}.{name}")) for name in names)


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
    try:
        decoder = family.describe(config)
    except ZeroDivisionError:
        raise CheckpointError(f"{config.path}: the sizes do not go together", hint=_DAMAGED) from None
    _expect_sane(config, decoder)
    return decoder


def _expect_sane(config: Config, decoder: Decoder) -> None:
    """CheckpointError for sizes that follow from others and are absurd: tables and states are allocated by them."""
    head = max((attention.head_dim for attention in decoder.attentions), default=1)
    states = [math.prod(state.shape) for recurrence in decoder.recurrences for state in recurrence.states]
    if not 0 < head <= _WIDEST_HEAD:
        raise CheckpointError(f"{config.path}: heads of {head:,} values, expected 1 to {_WIDEST_HEAD:,}", hint=_DAMAGED)
    if max(states, default=0) > _LARGEST_STATE:
        raise CheckpointError(f"{config.path}: a layer's state of {max(states):,} values is absurd", hint=_DAMAGED)


def model_types() -> list[str]:
    """Every `model_type` with a native family."""
    return sorted(name for family in all_families() for name in family.model_types)


def _family(module: ModuleType) -> Family:
    about = " ".join((module.__doc__ or "").split("\n\n")[0].split())
    return Family(module.__name__.rpartition(".")[2], module.MODEL_TYPES, about, module.describe)
