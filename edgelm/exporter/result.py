"""What either road, native or Optimum, tells the manifest about the graph it wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GraphResult:
    """Facts of a written graph.

    Attributes:
        graph: what the Engine must know (how the cache works, its shape) and `inspect` shows.
        recipe: role → format as used.
        parameters: weights of the model.
        weight_bytes_per_token: read for every decoded token.
        kv_bytes_per_token: kept for every token of context.
    """

    graph: dict[str, Any]
    recipe: dict[str, Any]
    parameters: int
    weight_bytes_per_token: int
    kv_bytes_per_token: int
