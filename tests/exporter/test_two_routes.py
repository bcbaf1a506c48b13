"""Every native family that Optimum can trace gives the same logits on both export paths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import close, some_ids

from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 512},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 512},
    "phi": {"partial_rotary_factor": 0.5, "num_key_value_heads": 4},  # Optimum cannot trace grouped heads of this one
    "phi3": {"pad_token_id": 0},
    "granite": {"residual_multiplier": 0.5, "logits_scaling": 2.0},
    "olmo2": {},
    "stablelm": {"use_qkv_bias": True},
    "helium": {"head_dim": 16},
    "smollm3": {"pad_token_id": 0},
    "nemotron": {},
    "arcee": {},
    "gpt2": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 96, "init_std": 0.05},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_both_roads_agree(tiny_checkpoint: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    pytest.importorskip("optimum.exporters.onnx")
    checkpoint, ids = tiny_checkpoint(kind, initializer_range=0.05, **KINDS[kind]), some_ids(40)
    engines = [
        Engine.load(export(checkpoint, "x86-64", "fp32", output=tmp_path / route, exporter=route))
        for route in ("native", "optimum")
    ]
    native, traced = (engine.forward(ids[:30], 30) for engine in engines)
    close(traced, native)
    for token in ids[30:]:
        native, traced = (np.array(engine.forward([token])) for engine in engines)
        close(traced, native)
