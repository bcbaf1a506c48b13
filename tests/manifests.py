"""A manifest for tests that need no model behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgelm.bundle.manifest import Manifest

_FACTS: dict[str, Any] = {
    "format": 1,
    "minimum_runtime": {"edgelm": "0.1.0", "onnxruntime": "1.32"},
    "model": {"id": "org/model", "type": "llama", "parameters": 1000, "sources": {}},
    "target": "rpi5",
    "threads": {"decode": 4, "prefill": 4},
    "provider": "cpu",
    "quant": "int4",
    "recipe": {role: {"op": "MatMulNBits", "bits": 4, "block": 32} for role in ("body", "head")},
    "context": 64,
    "special_tokens": {"bos": 1, "eos": [2], "pad": None},
    "tokenizer": {"add_bos": True, "bos_token": "<s>", "eos_token": "</s>"},
    "graph": {
        "cache": "shared",
        "layers": 1,
        "heads": 2,
        "kv_heads": 2,
        "head_dim": 8,
        "hidden": 16,
        "vocab": 300,
        "activations": "float32",
        "tied": True,
    },
    "memory": dict.fromkeys(("weights_bytes", "packed_bytes", "kv_bytes_per_token", "kv_bytes", "total_bytes"), 1000),
    "files": {name: {"bytes": 0, "sha256": ""} for name in ("model.onnx", "tokenizer.json")},
}


def manifest(**changes: Any) -> Manifest:
    """A small one, with other values under some keys, as JSON has them."""
    return Manifest.from_dict({**_FACTS, **changes}, Path("manifest.json"))
