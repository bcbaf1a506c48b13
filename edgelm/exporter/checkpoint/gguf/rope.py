"""The rotary embedding's scaling, as config.json says it."""

from __future__ import annotations

import math
from typing import Any

from edgelm.errors import UnsupportedModelError
from edgelm.exporter.checkpoint.gguf.metadata import Metadata

FREQUENCIES = "rope_freqs.weight"
SHORT, LONG = "rope_factors_short.weight", "rope_factors_long.weight"
FACTORS = (FREQUENCIES, SHORT, LONG)


def rope_scaling(data: Metadata) -> dict[str, Any]:
    """``rope_scaling``, and what belongs to it, of a config.json; empty for a plain rotary embedding.

    Llama 3's scaling is in the file as what it comes to, a factor for every frequency: that is longrope with the same
    factors for short and long contexts.
    """
    context = data.integer("context_length")
    if FREQUENCIES in data.tensors:
        factors = [float(value) for value in data.tensors[FREQUENCIES]]
        same = {"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0}
        return {"rope_scaling": same, "original_max_position_embeddings": context}
    kind = data.text(data.full("rope.scaling.type"), "none")
    if LONG in data.tensors:
        return _longrope(data, context)
    match kind:
        case "none":
            return {}
        case "linear":
            return {"rope_scaling": {"rope_type": "linear", "factor": data.number("rope.scaling.factor")}}
        case "yarn":
            return {"rope_scaling": _yarn(data, context)}
    raise UnsupportedModelError(
        f"{data.path}: rope scaling {kind!r} cannot be exported", hint="known: none, linear, yarn, longrope, llama3"
    )


def _longrope(data: Metadata, context: int) -> dict[str, Any]:
    original = data.integer("rope.scaling.original_context_length", context, least=2)
    stretch = context / original
    amplitude = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    return {
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [float(value) for value in data.tensors[SHORT]],
            "long_factor": [float(value) for value in data.tensors[LONG]],
            "attention_factor": data.number("rope.scaling.attn_factor", amplitude),
        },
        "original_max_position_embeddings": original,
    }


def _yarn(data: Metadata, context: int) -> dict[str, Any]:
    keys = {
        "attention_factor": "rope.scaling.yarn_attn_factor",
        "beta_fast": "rope.scaling.yarn_beta_fast",
        "beta_slow": "rope.scaling.yarn_beta_slow",
    }
    return {
        "rope_type": "yarn",
        "factor": data.number("rope.scaling.factor"),
        "original_max_position_embeddings": data.integer("rope.scaling.original_context_length", context),
        **{name: data.number(key) for name, key in keys.items() if data.has(key)},
    }
