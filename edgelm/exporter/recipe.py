"""A target's recipe → the Format of each role."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgelm.exporter.decoder import Decoder
from edgelm.exporter.formats import Format, make_format
from edgelm.exporter.graph import Formats
from edgelm.target import RecipeSpec, Target


def formats(recipe: RecipeSpec, hidden: int) -> Formats:
    """The formats of a recipe; those of head and embedding with their blocks fitted to rows of `hidden` values."""
    return Formats(
        body=make_format(recipe.body),
        head=make_format(recipe.head).fit(hidden),
        embedding=make_format(recipe.embedding).fit(hidden),
        matrices={name: make_format(spec) for name, spec in recipe.matrices.items()},
    )


def activations(recipe: RecipeSpec, target: Target) -> np.dtype[Any]:
    """The numpy type of activations: the target's, but float32 where the weights are kept in float32."""
    full = recipe.body.op == "MatMul" and recipe.body.bits == 32
    return np.dtype("float16" if target.runtime.activations == "fp16" and not full else "float32")


def used(chosen: Formats, tied: bool) -> dict[str, dict[str, Any]]:
    """The recipe as it was used, for the manifest; a tied embedding is read from the head's bytes."""
    embedding: Format = chosen.head if tied else chosen.embedding
    return {
        "body": chosen.body.spec.to_dict(),
        "head": chosen.head.spec.to_dict(),
        "embedding": {**embedding.spec.to_dict(), **({"shared_with": "head"} if tied else {})},
    }


def used_matrices(recipe: RecipeSpec, decoder: Decoder) -> dict[str, Any]:
    """For the manifest of a mixed recipe: ``matrices``, name → format and shape [n, k]; empty for one of roles alone."""
    if not recipe.matrices:
        return {}
    chosen = formats(recipe, decoder.hidden)
    return {
        "matrices": {
            linear.name: {**chosen.of(linear).spec.to_dict(), "shape": [linear.outputs, linear.inputs]}
            for linear in decoder.linears
        }
    }
