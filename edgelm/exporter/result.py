"""What either export path, native or Optimum, tells the manifest about the graph it wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgelm.bundle.format_spec import Recipe
from edgelm.bundle.manifest import Graph
from edgelm.bundle.origins import Calibration, KVCalibration


@dataclass(frozen=True)
class GraphResult:
    """Facts of a written graph.

    Attributes:
        graph: what the Engine must know (how the cache works, its shape) and `inspect` shows.
        recipe: role → format as used.
        parameters: weights of the model.
        weight_bytes_per_token: read for every decoded token.
        kv_bytes_per_token: kept for every token of context.
        calibration: on what, for the manifest; None without.
        kv_calibration: on what the scales of an int8 KV cache were found; None for floats.
        errors: of each rounded matrix by name, where asked for: ``{"format", "weight"}`` and, where it is calibrated,
            ``"output"``: what rounding adds to its weights, and to its products, as a share of their sum of squares.
        kept: of a GGUF file, how many values of each element type the bundle holds by the codes they have there.
        places: the matrices beside which an adapter has a place, for lora.json; None where it has none.
    """

    graph: Graph
    recipe: Recipe
    parameters: int
    weight_bytes_per_token: int
    kv_bytes_per_token: int
    calibration: Calibration | None = None
    kv_calibration: KVCalibration | None = None
    errors: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    places: list[dict[str, Any]] | None = None
