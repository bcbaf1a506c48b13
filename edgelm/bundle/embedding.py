"""Part of the manifest: how a bundle that embeds texts makes one vector of a text's hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgelm.bundle.json_table import FLAT, LEFT_OUT, JsonTable, names

POOLINGS = {  # as sentence-transformers defines them; the names of its configuration are in exporter/checkpoint
    "last": "the last token's hidden state",
    "mean": "the mean of the hidden states",
    "weighted_mean": "the mean of the hidden states, each weighted by its place",
    "cls": "the first token's hidden state",
}


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """How a text becomes a vector.

    Attributes:
        pooling: a key of `POOLINGS`.
        normalized: whether vectors have length 1.
        prompts: texts to put before an input, by name, such as ``query``.
        default_prompt: the name of that which is used where none is named, or None.
    """

    pooling: str
    normalized: bool
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = field(default=None, metadata=LEFT_OUT)
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> Embedding:
        """From JSON."""
        prompts = table.texts("prompts") if table.has("prompts") else {}
        return cls(
            pooling=table.text("pooling", tuple(POOLINGS)),
            normalized=table.flag("normalized"),
            prompts=prompts,
            default_prompt=table.text("default_prompt", tuple(prompts)) if table.has("default_prompt") else None,
            extra=table.others(names(cls)),
        )
