"""Rotary embedding as config.json tells it, in the key names of transformers 4 and 5."""

from __future__ import annotations

import math

from edgelm.errors import UnsupportedModelError
from edgelm.exporter.config import Config
from edgelm.exporter.decoder import RopeKind, RopeScaling

_KINDS: tuple[RopeKind, ...] = ("linear", "dynamic", "llama3", "yarn")


def rope_theta(config: Config) -> float:
    """The base of the rotary frequencies: `rope_theta`, inside `rope_parameters` in newer files."""
    nested = config.nested("rope_parameters")
    if nested is not None and nested.get("rope_theta") is not None:
        return nested.number("rope_theta")
    return config.number("rope_theta", 10000.0)


def read_scaling(config: Config) -> RopeScaling | None:
    """The stretch of the rotary frequencies, or None for plain ones."""
    scaling = config.nested("rope_scaling") or config.nested("rope_parameters")
    name = scaling.get("rope_type", scaling.get("type", "default")) if scaling is not None else "default"
    if scaling is None or name == "default":
        return None
    kind = next((known for known in _KINDS if known == name), None)
    if kind is None:
        raise UnsupportedModelError(
            f"{config.path}: rope type {name!r} is not supported by the native exporter (known: default, {', '.join(_KINDS)})",
            hint="try --exporter optimum",
        )
    context = config.integer("max_position_embeddings", 2048)
    factor = scaling.number("factor")
    if kind in ("linear", "dynamic"):
        return RopeScaling(kind, factor, context)
    original = scaling.integer("original_max_position_embeddings", context)
    if kind == "llama3":
        return RopeScaling(
            kind,
            factor,
            original,
            low_freq_factor=scaling.number("low_freq_factor"),
            high_freq_factor=scaling.number("high_freq_factor"),
        )
    return RopeScaling(
        kind,
        factor,
        original,
        beta_fast=scaling.number("beta_fast", 32.0),
        beta_slow=scaling.number("beta_slow", 1.0),
        attention_factor=_yarn_attention_factor(scaling, factor),
        truncate=scaling.flag("truncate", True),
    )


def _yarn_attention_factor(scaling: Config, factor: float) -> float:
    """By what YaRN multiplies cosines and sines: 0.1 ln(factor) + 1 unless the file says otherwise."""
    if scaling.get("attention_factor") is not None:
        return scaling.number("attention_factor")

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return mscale(scaling.number("mscale")) / mscale(scaling.number("mscale_all_dim"))
    return mscale(1.0)
