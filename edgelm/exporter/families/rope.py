"""Rotary embedding as config.json tells it, in the key names of transformers 4 and 5."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import TRY_OPTIMUM
from edgelm.exporter.model.rope import Rope, RopeScaling

_TABLES = ("rope_scaling", "rope_parameters")  # of transformers 4 and 5
_KINDS = ("linear", "dynamic", "llama3", "yarn", "longrope")


def read_rope(
    config: Config,
    head_dim: int,
    *,
    theta: float = 10000.0,
    partial: float = 1.0,
    interleaved: bool = False,
    layers: str = "full_attention",
) -> Rope:
    """The rotary embedding of a model, or of one type of its `layers` where the file tells them apart.

    `theta` and `partial` are what the family takes where the file does not say.
    """
    config = of_layers(config, layers) or config
    nested = _settings(config)

    def number(key: str, default: float) -> float:
        inside = nested is not None and nested.get(key) is not None
        return nested.number(key) if nested is not None and inside else config.number(key, default)

    dim, scaling = int(head_dim * _share(config, number("partial_rotary_factor", partial))), read_scaling(config)
    if scaling is not None and scaling.kind == "longrope":
        _check_factors(config, scaling, dim // 2)
    return Rope(dim, number("rope_theta", theta), scaling, interleaved)


def _share(config: Config, share: float) -> float:
    if share > 1:
        raise CheckpointError(f"{config.path}: key 'partial_rotary_factor' is {share:g}, expected a share of a head")
    return share


def of_layers(config: Config, kind: str) -> Config | None:
    """With the rotary settings of one type of layers; None where the file has the same for all."""
    for key in _TABLES:
        nested = config.nested(key)
        if nested is not None and isinstance(nested.get(kind), dict):
            return Config({**config.values, "rope_parameters": nested.get(kind), "rope_scaling": None}, config.path)
    return None


def _settings(config: Config) -> Config | None:
    """The settings of the rotary embedding, which one of two objects holds, or each a part of them.

    Where both say something, ``rope_scaling`` counts, as in transformers; but one that only says that there is no
    scaling takes none away.
    """
    tables = [table.values for key in _TABLES if (table := config.filled(key)) is not None]
    if not tables:
        return None
    scaled = [table for table in tables if _kind(table) != "default"]
    merged: dict[str, Any] = {}
    for table in reversed([*scaled, *(table for table in tables if table not in scaled)]):
        merged |= {key: value for key, value in table.items() if value is not None}
    return Config({**merged, "rope_type": _kind(merged if not scaled else scaled[0])}, config.path)


def _kind(table: Mapping[str, Any]) -> Any:
    """Which formula stretches the frequencies; ``default`` for none."""
    return next((table[key] for key in ("rope_type", "type") if table.get(key) is not None), "default")


def read_scaling(config: Config) -> RopeScaling | None:
    """The stretch of the rotary frequencies, or None for plain ones."""
    scaling = _settings(config)
    kind = "default" if scaling is None else scaling.get("rope_type")
    if scaling is None or kind == "default":
        return None
    context = config.integer("max_position_embeddings", 2048)
    match kind:
        case "linear" | "dynamic":
            return RopeScaling(kind, scaling.number("factor"), context)
        case "llama3":
            return RopeScaling(
                kind,
                scaling.number("factor"),
                scaling.integer("original_max_position_embeddings", context),
                low_freq_factor=scaling.number("low_freq_factor"),
                high_freq_factor=scaling.number("high_freq_factor"),
            )
        case "yarn":
            return _yarn(scaling, context)
        case "longrope" | "su":
            return _longrope(config, scaling, context)
    raise UnsupportedModelError(
        f"{config.path}: rope type {kind!r} is not supported by the native exporter (known: default, {', '.join(_KINDS)})",
        hint=f"{TRY_OPTIMUM}, or extend edgelm/exporter/families/rope.py",
    )


def _yarn(scaling: Config, context: int) -> RopeScaling:
    original = scaling.integer("original_max_position_embeddings", context)
    stretch = context / original if original < context else None
    factor = scaling.number("factor", stretch)

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    amplitude = mscale(1.0)
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        amplitude = mscale(scaling.number("mscale")) / mscale(scaling.number("mscale_all_dim"))
    return RopeScaling(
        "yarn",
        factor,
        original,
        beta_fast=scaling.number("beta_fast", 32.0),
        beta_slow=scaling.number("beta_slow", 1.0),
        attention_factor=scaling.number("attention_factor", amplitude),
        truncate=scaling.flag("truncate", True),
    )


def _longrope(config: Config, scaling: Config, context: int) -> RopeScaling:
    """Phi-3's long contexts; in its own files the original context stands outside `rope_scaling`, in others inside."""
    key = "original_max_position_embeddings"
    if config.get(key) is not None:
        original = config.integer(key)
        factor = context / original
    elif scaling.get(key) is not None:
        original = scaling.integer(key)
        factor = scaling.number("factor", context / original)
    else:
        original, factor = context, scaling.number("factor", 1.0)
    amplitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return RopeScaling(
        "longrope",
        factor,
        original,
        attention_factor=scaling.number("attention_factor", amplitude),
        short_factors=scaling.numbers("short_factor"),
        long_factors=scaling.numbers("long_factor"),
    )


def _check_factors(config: Config, scaling: RopeScaling, count: int) -> None:
    for key, factors in (("short_factor", scaling.short_factors), ("long_factor", scaling.long_factors)):
        if len(factors) != count:
            raise CheckpointError(f"{config.path}: {key} of the rope has {len(factors)} numbers, expected {count}")
